/* SPDX-License-Identifier: MIT */
/*
 * again.h (internal): what became of a lost connection's requests.
 *
 * flight.c remembers them, again.c sorts them at the loss, into those that will be sent again and those that have
 * failed, and sends the former. reconnect.c decides when.
 */
#ifndef BF_CLIENT_AGAIN_H
#define BF_CLIENT_AGAIN_H

#include "client/reconnect.h"

/* flight.c */
struct client_flight *bf_flight_find(const struct client_reconnect *r, uint64_t id); /* NULL: no such one */
void bf_flight_remove(struct belfry_client *c, struct client_flight *f);
uint64_t *bf_flights_sorted(const struct client_reconnect *r); /* their ids, then 0; to be freed. NULL: no memory */
void bf_flights_free(struct belfry_client *c);

/*
 * again.c: the connection is lost; all that arrived has been taken out of its ring. Puts what will be sent again into
 * r->again_first, and a failure for each other request where belfry_receive() and belfry_await() find it. 0, or -ENOMEM:
 * nothing has happened.
 */
int bf_again_sort(struct belfry_client *c);

/* again.c: it will not come back: a failure for each request. 0 or -ENOMEM, as above. */
int bf_again_fail_all(struct belfry_client *c);

/* again.c: put one more behind the others. */
int bf_again_add(struct belfry_client *c, enum belfry_kind kind, uint64_t id, const void *data, void **block,
                 uint64_t size, int64_t deadline_ns);

/* again.c: nobody wants this one. False: it was not there. */
bool bf_again_remove(struct belfry_client *c, uint64_t id);
void bf_again_free(struct belfry_client *c);

#endif
