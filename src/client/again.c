/* SPDX-License-Identifier: MIT */
/*
 * again.c: which requests of a lost connection are sent again, and sending them.
 *
 * Certainly not executed is what lies in our ring behind the position that the server gave with the end, and a message
 * that had not left whole: these are sent again, whatever they are. Of the others the server may have executed any: they
 * are sent again if their caller said that they may be executed twice, and end with BELFRY_EGONE if not.
 *
 * The order stays: first what was read, then what was not, then what was still waiting here.
 */
#include "client/again.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/error.h"
#include "shm/extension.h"

struct again_list {
    struct client_again *first;
    struct client_again *last;
};

struct failure_list {
    struct client_stashed *first;
    struct client_stashed *last;
};

static void put(struct again_list *list, struct client_again *a)
{
    a->next = NULL;
    if (list->last != NULL)
        list->last->next = a;
    else
        list->first = a;
    list->last = a;
}

static void again_free(struct client_again *a)
{
    bf_block_free(a->block);
    bf_block_free(a);
}

static void list_free(struct again_list *list)
{
    while (list->first != NULL) {
        struct client_again *next = list->first->next;
        again_free(list->first);
        list->first = next;
    }
}

/* `copy`: NULL, or bytes to be copied. */
static struct client_again *again_new(uint8_t kind, uint64_t id, const void *copy, uint64_t size, int64_t deadline_ns)
{
    struct client_again *a = bf_block_alloc(sizeof *a + (copy != NULL ? size : 0));
    if (a == NULL)
        return NULL;
    *a = (struct client_again){.kind = kind, .id = id, .size = size, .deadline_ns = deadline_ns};
    if (copy == NULL)
        return a;
    if (size > 0)
        memcpy(a->copy, copy, size);
    a->data = a->copy;
    return a;
}

static int no_memory(void)
{
    return bf_error(-ENOMEM, "no memory to look after the requests of a lost connection");
}

/* --- what the server has not read ---------------------------------------------------------------------------------- */

/* A message whose parts are put together again. */
struct rebuilt {
    struct parts_in in;
    struct client_again *again;
};

static void rebuilt_drop(struct rebuilt *b)
{
    if (b->again != NULL)
        again_free(b->again);
    *b = (struct rebuilt){.again = NULL};
}

static int rebuild(struct rebuilt *b, const struct ring_entry *e)
{
    uint32_t block = 0;
    if (e->flags == BELFRY_FLAG_EXTENDED) {
        rebuilt_drop(b); /* the one before was given up half-way */
        if (parts_open(&b->in, e, &block) < 0)
            return 0;
        b->again = again_new(b->in.kind, b->in.id, NULL, b->in.bytes, b->in.deadline_ns);
        if (b->again == NULL || (b->again->block = bf_block_alloc(b->in.bytes)) == NULL)
            return -ENOMEM;
        b->again->data = b->in.data = b->again->block;
    }
    return parts_take(&b->in, e, block) == 1; /* else its first parts were read, or more of it follows */
}

/* One that was not read: by its flight, if that has the bytes. */
static int put_unread(struct belfry_client *c, struct again_list *list, struct client_again *a)
{
    struct client_flight *f = bf_flight_find(c->reconnect, a->id);
    bool wanted = a->id == 0 || f != NULL; /* else it was cancelled */
    if (!wanted) {
        again_free(a);
        return 0;
    }
    if (f != NULL)
        f->listed = true;
    put(list, a);
    return 0;
}

static int collect_entry(struct belfry_client *c, struct again_list *list, struct rebuilt *b,
                         const struct ring_entry *e)
{
    struct extension x = {0};
    struct client_again *a;
    int block = 0;
    if (e->kind == BELFRY_PART) {
        int rc = rebuild(b, e);
        if (rc <= 0)
            return rc;
        a = b->again;
        *b = (struct rebuilt){.again = NULL};
        return put_unread(c, list, a);
    }
    if (e->kind != BELFRY_REQUEST && e->kind != BELFRY_ONE_WAY)
        return 0;
    if (e->flags == BELFRY_FLAG_EXTENDED && (block = extension_read(e, &x)) < 0)
        return 0;
    const uint8_t *data = (const uint8_t *)e->data + block;
    a = again_new(e->kind, e->id, data, e->bytes - (uint32_t)block, x.deadline_ns);
    return a == NULL ? -ENOMEM : put_unread(c, list, a);
}

/* What lies behind the position that came with the end. Without an end, nobody knows how far the server came. */
static int collect_unread(struct belfry_client *c, struct again_list *list)
{
    struct ring_consumer_local unread = bf_client_unread(c);
    struct rebuilt b = {.again = NULL};
    struct ring_entry e;
    int rc = 0;
    if (load_acquire(&c->recv->end) == BELFRY_END_NONE) /* partner: listener.c, tell_end */
        return 0;
    while (rc == 0 && unread.position < c->out.position && ring_peek(&unread, &e) > 0) {
        rc = collect_entry(c, list, &b, &e);
        ring_advance(&unread, &e);
    }
    rebuilt_drop(&b);
    return rc;
}

/* What had not left whole. It has not been executed, however it ended. The block is moved when nothing can fail. */
static int collect_leaving(struct belfry_client *c, struct again_list *list)
{
    struct client_large *large = c->large;
    if (large == NULL || large->state != LARGE_LEAVING)
        return 0;
    struct client_flight *f = bf_flight_find(c->reconnect, large->out.id);
    if (large->out.id != 0 && f == NULL)
        return 0;
    struct client_again *a = again_new(large->out.kind, large->out.id, NULL, large->out.bytes, large->out.deadline_ns);
    if (a == NULL)
        return -ENOMEM;
    if (f == NULL || f->data == NULL)
        a->data = large->out.data; /* and its block, below */
    if (f != NULL)
        f->listed = true;
    put(list, a);
    return 0;
}

/* --- what has failed ------------------------------------------------------------------------------------------------ */

static struct client_stashed *failure_new(uint64_t id, int status)
{
    const char *text = belfry_error_text(status);
    size_t size = strlen(text);
    struct client_stashed *s = bf_block_alloc(sizeof *s + size);
    if (s == NULL)
        return NULL;
    *s = (struct client_stashed){
        .message = {.data = s->data, .size = size, .id = id, .status = status, .kind = BELFRY_FAILURE}};
    memcpy(s->data, text, size);
    return s;
}

static int fail(struct failure_list *list, uint64_t id, int status)
{
    struct client_stashed *s = failure_new(id, status);
    if (s == NULL)
        return -ENOMEM;
    if (list->last != NULL)
        list->last->next = s;
    else
        list->first = s;
    list->last = s;
    return 0;
}

static void failures_free(struct failure_list *list)
{
    while (list->first != NULL) {
        struct client_stashed *next = list->first->next;
        bf_block_free(list->first);
        list->first = next;
    }
}

static void failures_tell(struct belfry_client *c, struct failure_list *list)
{
    while (list->first != NULL) {
        struct client_stashed *s = list->first;
        struct client_flight *f = bf_flight_find(c->reconnect, s->message.id);
        list->first = s->next;
        if (f != NULL)
            bf_flight_remove(c, f);
        bf_client_keep(c, s);
    }
}

/* Whatever is in flight and not to be sent again by now: may it be executed twice? */
static int judge(struct belfry_client *c, struct again_list *again, struct failure_list *failed)
{
    struct client_reconnect *r = c->reconnect;
    uint64_t *ids = bf_flights_sorted(r);
    int rc = ids == NULL ? -ENOMEM : 0;
    for (uint64_t *id = ids; rc == 0 && *id != 0; id++) {
        struct client_flight *f = bf_flight_find(r, *id);
        if (f->listed)
            continue;
        if (f->data != NULL && f->replays < r->policy.replays_max) {
            struct client_again *a = again_new(BELFRY_REQUEST, f->id, NULL, f->size, f->deadline_ns);
            rc = a == NULL ? -ENOMEM : 0;
            if (rc == 0)
                put(again, a);
        } else {
            rc = fail(failed, f->id, BELFRY_EGONE);
        }
    }
    free(ids);
    return rc;
}

int bf_again_sort(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    struct again_list unread = {NULL, NULL}, leaving = {NULL, NULL}, read = {NULL, NULL};
    struct failure_list failed = {NULL, NULL};
    for (uint32_t i = 0; i < r->flight_capacity; i++)
        r->flights[i].listed = false;
    for (struct client_again *a = r->again_first; a != NULL; a = a->next) {
        struct client_flight *f = bf_flight_find(r, a->id);
        if (f != NULL)
            f->listed = true;
    }
    int rc = collect_unread(c, &unread);
    if (rc == 0)
        rc = collect_leaving(c, &leaving);
    if (rc == 0)
        rc = judge(c, &read, &failed);
    if (rc < 0) {
        list_free(&unread);
        list_free(&leaving);
        list_free(&read);
        failures_free(&failed);
        return no_memory();
    }
    for (struct client_again *a = read.first; a != NULL; a = a->next)
        bf_flight_find(r, a->id)->replays++;
    if (leaving.first != NULL && leaving.first->data != NULL) {
        leaving.first->block = c->large->block;
        c->large->block = NULL;
    }
    failures_tell(c, &failed);
    struct again_list all = {NULL, NULL};
    struct again_list waiting = {r->again_first, r->again_last};
    struct again_list *lists[] = {&read, &unread, &leaving, &waiting};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        for (struct client_again *a = lists[i]->first, *next; a != NULL; a = next) {
            next = a->next;
            put(&all, a);
        }
    r->again_first = all.first;
    r->again_last = all.last;
    return 0;
}

int bf_again_fail_all(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    struct failure_list failed = {NULL, NULL};
    uint64_t *ids = bf_flights_sorted(r);
    int rc = ids == NULL ? -ENOMEM : 0;
    for (uint64_t *id = ids; rc == 0 && *id != 0; id++) { /* all of them wait here; some were never read */
        const struct client_flight *f = bf_flight_find(r, *id);
        rc = fail(&failed, *id, f->replays > 0 ? BELFRY_EGONE : BELFRY_EUNREAD);
    }
    free(ids);
    if (rc < 0) {
        failures_free(&failed);
        return no_memory();
    }
    bf_again_free(c);
    failures_tell(c, &failed);
    return 0;
}

/* --- the list ------------------------------------------------------------------------------------------------------- */

int bf_again_add(struct belfry_client *c, enum belfry_kind kind, uint64_t id, const void *data, void **block,
                 uint64_t size, int64_t deadline_ns)
{
    struct client_reconnect *r = c->reconnect;
    struct again_list list = {r->again_first, r->again_last};
    struct client_again *a = again_new((uint8_t)kind, id, block == NULL ? data : NULL, size, deadline_ns);
    bool borrowed = block != NULL && *block == NULL;
    int rc = a == NULL ? no_memory() : bf_reconnect_sent(c, id, data, size, deadline_ns, block);
    if (rc < 0) {
        bf_block_free(a);
        return rc;
    }
    if (block != NULL && (borrowed || *block != NULL)) { /* else its flight has taken it */
        a->data = data;
        a->block = *block;
        *block = NULL;
    }
    put(&list, a);
    r->again_first = list.first;
    r->again_last = list.last;
    return 0;
}

bool bf_again_remove(struct belfry_client *c, uint64_t id)
{
    struct client_reconnect *r = c->reconnect;
    struct client_again *before = NULL, *a = r->again_first;
    while (a != NULL && a->id != id) {
        before = a;
        a = a->next;
    }
    if (a == NULL || id == 0)
        return false;
    if (before == NULL)
        r->again_first = a->next;
    else
        before->next = a->next;
    if (r->again_last == a)
        r->again_last = before;
    again_free(a);
    return true;
}

void bf_again_free(struct belfry_client *c)
{
    struct again_list list = {c->reconnect->again_first, NULL};
    list_free(&list);
    c->reconnect->again_first = c->reconnect->again_last = NULL;
}

/* --- sending -------------------------------------------------------------------------------------------------------- */

/* The successor takes no messages of that size. */
static int too_big(struct belfry_client *c, uint64_t id)
{
    struct failure_list failed = {NULL, NULL};
    int rc = id == 0 ? 0 : fail(&failed, id, BELFRY_ETOOBIG);
    if (rc < 0)
        return no_memory();
    failures_tell(c, &failed);
    c->reconnect->epoch++;
    return 1;
}

static int send_small(struct belfry_client *c, const struct client_again *a, const void *data, uint32_t block)
{
    struct extension x = {.deadline_ns = a->deadline_ns};
    uint8_t *room;
    int rc = ring_reserve(&c->out, block + a->size, (void **)&room);
    if (rc < 0)
        return rc == -EAGAIN ? 0 : rc;
    if (block > 0)
        extension_write(room, &x);
    if (a->size > 0)
        memcpy(room + block, data, a->size);
    ring_commit(&c->out, a->kind, block > 0 ? BELFRY_FLAG_EXTENDED : 0, a->id, block + a->size);
    client_tell(c, true);
    return 1;
}

/* 1: it has left, or is leaving; 0: not yet; or a code. */
static int send_one(struct belfry_client *c, struct client_again *a)
{
    struct client_flight *f = bf_flight_find(c->reconnect, a->id);
    struct extension x = {.deadline_ns = a->deadline_ns};
    uint32_t block = extension_bytes(&x);
    const void *data = a->data != NULL ? a->data : f != NULL ? f->data : NULL;
    if (data == NULL) /* nobody wants it any more */
        return 1;
    if (a->size > belfry_message_bytes_max(c))
        return too_big(c, a->id);
    if (block + a->size <= ring_payload_max(c->out.capacity))
        return send_small(c, a, data, block);
    struct parts_out out = {
        .data = data, .bytes = a->size, .id = a->id, .deadline_ns = a->deadline_ns, .kind = a->kind};
    return bf_large_again(c, &out, &a->block);
}

int bf_reconnect_push(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    int rc = 1;
    while (rc > 0 && r->again_first != NULL) {
        struct client_again *a = r->again_first;
        rc = send_one(c, a);
        if (rc <= 0)
            break;
        r->again_first = a->next;
        if (a->next == NULL)
            r->again_last = NULL;
        again_free(a);
        if (client_is_leaving(c))
            rc = 0;
    }
    if (!client_is_leaving(c))
        c->wanted = 0;
    bf_reconnect_settle(c);
    return rc;
}
