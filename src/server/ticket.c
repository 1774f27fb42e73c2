/* SPDX-License-Identifier: MIT */
/*
 * ticket.c: defer, complete, cancel: see ticket.h.
 *
 * The first half runs on the shard's thread. The second half is what a ticket's holder calls, on any thread; what he says
 * travels by letter (mailbox.h), as an outbox message that is ready to be queued.
 */
#include "server/ticket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "server/conn.h"
#include "server/server.h"

/* --- the table ---------------------------------------------------------------------------------------------------- */

static void put_free(struct bf_ticket_table *table, struct ticket_record *record)
{
    record->next = NULL;
    if (table->free_first == NULL)
        table->free_last = &table->free_first;
    *table->free_last = record;
    table->free_last = &record->next;
}

static struct ticket_record *take_free(struct bf_ticket_table *table)
{
    struct ticket_record *record = table->free_first;
    if (record != NULL)
        table->free_first = record->next;
    return record;
}

static int add_chunk(struct bf_ticket_table *table)
{
    if (table->chunk_count == TICKET_CHUNKS_MAX)
        return bf_error(BELFRY_EBACKLOG, "the shard has %u deferred requests: answer some first",
                        TICKET_CHUNKS_MAX * TICKETS_PER_CHUNK);
    struct ticket_record *chunk = calloc(TICKETS_PER_CHUNK, sizeof *chunk);
    if (chunk == NULL)
        return bf_error(-ENOMEM, "no memory for %u more deferred requests", TICKETS_PER_CHUNK);
    for (uint32_t i = 0; i < TICKETS_PER_CHUNK; i++) {
        chunk[i].place = table->chunk_count * TICKETS_PER_CHUNK + i;
        put_free(table, &chunk[i]);
    }
    store_release(&table->chunks[table->chunk_count++], chunk); /* partner: record_of */
    return 0;
}

void bf_tickets_destroy(struct bf_ticket_table *table)
{
    for (uint32_t i = 0; i < table->chunk_count; i++)
        free(table->chunks[i]);
}

/* Free for the next request. From here on its ticket is stale. */
static void free_record(struct bf_ticket_table *table, struct ticket_record *record)
{
    uint64_t word = load_relaxed(&record->word);
    record->conn = NULL;
    store_release(&record->word, TICKET_WORD(TICKET_SERIAL(word) + 1, TICKET_FREE));
    put_free(table, record);
}

void bf_tickets_reset(struct bf_ticket_table *table)
{
    for (uint32_t i = 0; i < table->chunk_count * TICKETS_PER_CHUNK; i++) {
        struct ticket_record *record = &table->chunks[i / TICKETS_PER_CHUNK][i % TICKETS_PER_CHUNK];
        if (TICKET_STATE_OF(load_relaxed(&record->word)) == TICKET_GONE)
            free_record(table, record);
    }
}

/* --- on the shard's thread: defer, cancel, deliver ---------------------------------------------------------------- */

static void ticket_of(const struct ticket_record *record, belfry_ticket *t)
{
    const struct belfry_conn *conn = record->conn;
    *t = (belfry_ticket){.conn = belfry_conn_get_id(conn),
                         .request = record->request_id,
                         .deadline_ns = record->deadline_ns,
                         .place = record->place,
                         .serial = TICKET_SERIAL(load_relaxed(&record->word))};
}

static void unlink_from_conn(struct ticket_record *record)
{
    struct belfry_conn *conn = record->conn;
    *record->at = record->next;
    if (record->next != NULL)
        record->next->at = record->at;
    record->conn = NULL;
    conn->ticket_count--;
    if ((conn->halted & HALTED_BY_TICKETS) != 0 || conn->draining) {
        conn->halted &= (uint8_t)~HALTED_BY_TICKETS;
        bf_shard_heat(conn->shard, conn->slot); /* there may be requests that nobody will ring for again */
    }
}

/* What came in parts lies in memory of its own, and is handed over without another copy. */
static int copy_message(struct belfry_conn *conn, const belfry_message *m, belfry_message *copy)
{
    *copy = *m;
    if (bf_whole_give(conn, m->data))
        return 0;
    void *data = bf_block_alloc(m->size);
    if (data == NULL)
        return bf_error(-ENOMEM, "no memory for a copy of a request of %zu bytes", m->size);
    memcpy(data, m->data, m->size);
    copy->data = data;
    return 0;
}

int belfry_defer(belfry_conn *conn, const belfry_message *m, belfry_ticket *ticket, belfry_message *copy)
{
    if (conn->shard != bf_shard_self()) /* before anything of it is read: a handler may be at work there */
        return bf_conn_wrong_thread();
    int rc = conn_check_open(conn, m);
    if (rc < 0)
        return rc;
    struct bf_ticket_table *table = &conn->shard->tickets;
    if (table->free_first == NULL && (rc = add_chunk(table)) < 0)
        return rc;
    if (copy != NULL && (rc = copy_message(conn, m, copy)) < 0)
        return rc;
    struct ticket_record *record = take_free(table);
    record->conn = conn;
    record->request_id = m->id;
    record->deadline_ns = belfry_message_deadline(m);
    record->cancelled = false;
    record->next = conn->tickets;
    record->at = &conn->tickets;
    if (record->next != NULL)
        record->next->at = &record->next;
    conn->tickets = record;
    if (++conn->ticket_count >= conn->shard->options->deferred_max)
        conn->halted |= HALTED_BY_TICKETS;
    uint32_t serial = TICKET_SERIAL(load_relaxed(&record->word));
    store_relaxed(&record->queued, TICKET_QUEUED(serial, 0));
    store_relaxed(&record->refused, 0);
    store_release(&record->word, TICKET_WORD(serial, TICKET_OPEN));
    ticket_of(record, ticket);
    conn->request_open = false;
    counter_add(&conn->shard->counters->deferred, 1);
    return 0;
}

void belfry_message_free(belfry_message *copy)
{
    bf_block_free((void *)copy->data);
    *copy = (belfry_message){0};
}

/* Whoever sleeps until he may say more, or until nobody wants to hear it, looks again. */
static void wake_holder(struct ticket_record *record)
{
    full_fence(); /* what changed is visible before we ask whether he sleeps; partner: belfry_ticket_wait */
    if (load_relaxed(&record->waited_for) == 0)
        return;
    store_release(&record->bell, load_relaxed(&record->bell) + 1);
    bf_os_wake(&record->bell);
}

static void tell_holder(struct ticket_record *record, enum ticket_state state, int why)
{
    const belfry_server_options *o = record->conn->shard->options;
    uint64_t word = load_relaxed(&record->word);
    uint64_t told = TICKET_WORD(TICKET_SERIAL(word), state);
    record->cancelled = true;
    /* It may be TAKEN, by its holder, at any time: then the answer is dropped when it comes. */
    while (TICKET_STATE_OF(word) == TICKET_OPEN || TICKET_STATE_OF(word) == TICKET_CANCELLED)
        if (replace_acq_rel(&record->word, &word, told))
            break;
    wake_holder(record);
    if (TICKET_STATE_OF(word) == TICKET_OPEN && o->on_cancel != NULL) {
        belfry_ticket ticket;
        ticket_of(record, &ticket);
        o->on_cancel(record->conn, &ticket, why, o->user);
    }
}

bool bf_tickets_cancel(struct belfry_conn *conn, uint64_t request_id, int why)
{
    for (struct ticket_record *record = conn->tickets; record != NULL; record = record->next)
        if (record->request_id == request_id && !record->cancelled) {
            tell_holder(record, TICKET_CANCELLED, why);
            return true;
        }
    return false;
}

void bf_tickets_conn_over(struct belfry_conn *conn)
{
    while (conn->tickets != NULL) {
        struct ticket_record *record = conn->tickets;
        tell_holder(record, TICKET_GONE, BELFRY_EGONE);
        unlink_from_conn(record);
    }
}

void bf_ticket_credit(struct ticket_record *record, uint32_t serial, uint64_t bytes)
{
    if (TICKET_SERIAL(load_relaxed(&record->word)) != serial) /* it has been ended since */
        return;
    sub_acq_rel(&record->queued, bytes);
    wake_holder(record);
}

/* What a ticket's holder says: an outbox message that travels as a letter. */
struct answer_letter {
    struct mailbox_letter letter;
    struct outbox_message *message;
    struct ticket_record *record;
    bool last;
};

static void end_record(struct bf_shard *shard, struct ticket_record *record)
{
    if (record->conn != NULL)
        unlink_from_conn(record);
    free_record(&shard->tickets, record);
}

static void deliver_answer(struct bf_shard *shard, struct mailbox_letter *letter)
{
    struct answer_letter answer = *(struct answer_letter *)letter;
    struct ticket_record *record = answer.record;
    free(letter);
    bool ours = TICKET_SERIAL(load_relaxed(&record->word)) == answer.message->serial;
    if (ours && record->conn != NULL && !record->cancelled) {
        bf_conn_say_message(record->conn, answer.message);
    } else {
        counter_add(&shard->counters->answers_dropped, 1);
        outbox_message_free(answer.message, &shard->arena);
    }
    if (ours && answer.last)
        end_record(shard, record);
}

static void deliver_returned(struct bf_shard *shard, struct mailbox_letter *letter)
{
    counter_add(&shard->counters->answers_dropped, 1);
    end_record(shard, (struct ticket_record *)letter);
}

/* --- the holder's side, on any thread ----------------------------------------------------------------------------- */

static int stale(const belfry_ticket *t)
{
    return bf_error(BELFRY_EANSWERED, "the ticket of request %llu has been completed already",
                    (unsigned long long)t->request);
}

static int gone(const belfry_ticket *t)
{
    return bf_error(BELFRY_EGONE, "the conn of request %llu is over: nobody waits for the answer",
                    (unsigned long long)t->request);
}

/* The record that a ticket names, in *record, and its shard in *shard; on an error both are NULL. */
static int record_of(belfry_server *s, const belfry_ticket *t, struct bf_shard **shard, struct ticket_record **record)
{
    uint32_t index = belfry_conn_id_shard(t->conn), chunk = t->place / TICKETS_PER_CHUNK;
    struct ticket_record *records = NULL;
    *shard = NULL;
    *record = NULL;
    if (index < s->shard_count && chunk < TICKET_CHUNKS_MAX)
        records = load_acquire(&s->shards[index].tickets.chunks[chunk]); /* partner: add_chunk */
    if (records == NULL)
        return bf_error(BELFRY_EOPTION, "that is no ticket of \"%s\"", s->place.service);
    *shard = &s->shards[index];
    *record = &records[t->place % TICKETS_PER_CHUNK];
    return 0;
}

/* What a ticket is worth, by its record's word. */
static int status_of(const belfry_ticket *t, uint64_t word)
{
    if (TICKET_SERIAL(word) != t->serial)
        return stale(t);
    switch (TICKET_STATE_OF(word)) {
    case TICKET_OPEN:
        return 0;
    case TICKET_CANCELLED:
        return bf_error(-ECANCELED, "nobody waits for the answer to request %llu any more",
                        (unsigned long long)t->request);
    case TICKET_GONE:
        return gone(t);
    case TICKET_FREE:
    case TICKET_TAKEN:
        break;
    }
    return stale(t);
}

int belfry_ticket_status(belfry_server *s, const belfry_ticket *t)
{
    struct bf_shard *shard;
    struct ticket_record *record;
    int rc = record_of(s, t, &shard, &record);
    return rc < 0 ? rc : status_of(t, load_acquire(&record->word));
}

/* Send a letter about a ticket that we have TAKEN. The shard may have stopped: then the next start finds the record. */
static bool put_last(const belfry_ticket *t, struct bf_shard *shard, struct ticket_record *record,
                     struct mailbox_letter *letter)
{
    if (bf_mailbox_put(&shard->mailbox, letter))
        return true;
    store_release(&record->word, TICKET_WORD(t->serial, TICKET_GONE));
    return false;
}

/* Make the ticket TAKEN, if it still is its holder's. 0: it was open; else what became of it, and it is ended. */
static int take(const belfry_ticket *t, struct bf_shard *shard, struct ticket_record *record)
{
    uint64_t word = load_acquire(&record->word);
    for (;;) {
        int rc = status_of(t, word);
        if (rc == BELFRY_EANSWERED)
            return rc;
        if (!replace_acq_rel(&record->word, &word, TICKET_WORD(t->serial, TICKET_TAKEN)))
            continue;
        if (rc < 0) { /* nobody waits any more: the record goes back to its shard */
            record->returned.deliver = deliver_returned;
            put_last(t, shard, record, &record->returned);
        }
        return rc;
    }
}

static struct answer_letter *letter_new(const belfry_ticket *t, enum belfry_kind kind, const void *head,
                                        size_t head_size, const void *data, size_t size)
{
    struct answer_letter *letter = malloc(sizeof *letter);
    struct outbox_message *message = bf_block_alloc(sizeof *message + head_size + size);
    if (letter == NULL || message == NULL) {
        free(letter);
        bf_block_free(message);
        bf_error(-ENOMEM, "no memory for an answer of %zu bytes", size);
        return NULL;
    }
    *message = (struct outbox_message){
        .id = t->request, .bytes = head_size + size, .kind = (uint8_t)kind, .in_block = true, .serial = t->serial};
    if (head_size > 0)
        memcpy(message->payload, head, head_size);
    if (size > 0)
        memcpy(message->payload + head_size, data, size);
    *letter = (struct answer_letter){.letter.deliver = deliver_answer, .message = message};
    return letter;
}

static void letter_free(struct answer_letter *letter)
{
    bf_block_free(letter->message);
    free(letter);
}

static int check_size(const belfry_server *s, size_t size)
{
    if (size <= s->options.message_bytes_max)
        return 0;
    return bf_error(BELFRY_ETOOBIG, "an answer of %zu bytes is larger than message_bytes_max, %u", size,
                    s->options.message_bytes_max);
}

/* The last answer: reply or failure. */
static int complete(belfry_server *s, const belfry_ticket *t, enum belfry_kind kind, const void *head, size_t head_size,
                    const void *data, size_t size)
{
    struct bf_shard *shard;
    struct ticket_record *record;
    int rc = record_of(s, t, &shard, &record);
    if (rc == 0)
        rc = check_size(s, head_size + size);
    if (rc < 0)
        return rc;
    struct answer_letter *letter = letter_new(t, kind, head, head_size, data, size);
    if (letter == NULL)
        return -ENOMEM;
    letter->record = record;
    letter->last = true;
    rc = take(t, shard, record);
    if (rc == 0 && put_last(t, shard, record, &letter->letter))
        return 0;
    letter_free(letter);
    return rc < 0 ? rc : gone(t);
}

int belfry_complete(belfry_server *s, const belfry_ticket *t, const void *data, size_t size)
{
    return complete(s, t, BELFRY_REPLY, NULL, 0, data, size);
}

int belfry_complete_failed(belfry_server *s, const belfry_ticket *t, int status, const char *text)
{
    int32_t head = status;
    if (status >= 0)
        return bf_error(BELFRY_EOPTION, "a failure's status is negative, %d is not", status);
    size_t room = s->options.message_bytes_max - sizeof head;
    size_t length = text == NULL ? 0 : strnlen(text, bf_min(room, FAILURE_TEXT_MAX));
    return complete(s, t, BELFRY_FAILURE, &head, sizeof head, text, length);
}

/* Count a message of `cost` bytes as queued, if its ticket may have so many. */
static int debit(belfry_server *s, const belfry_ticket *t, struct ticket_record *record, uint64_t cost)
{
    uint64_t queued = load_relaxed(&record->queued);
    do {
        uint32_t bytes = TICKET_QUEUED_BYTES(queued);
        if (queued >> 32 != t->serial)
            return stale(t);
        if (bytes > 0 && bytes + cost > s->options.outbox_bytes_max) {
            store_relaxed(&record->refused, cost);
            return bf_error(BELFRY_EBACKLOG, "the client reads slowly: %u bytes of request %llu wait for it", bytes,
                            (unsigned long long)t->request);
        }
    } while (!replace_release(&record->queued, &queued, queued + cost));
    return 0;
}

int belfry_complete_more(belfry_server *s, const belfry_ticket *t, const void *data, size_t size)
{
    struct bf_shard *shard;
    struct ticket_record *record;
    int rc = record_of(s, t, &shard, &record);
    if (rc == 0)
        rc = check_size(s, size);
    if (rc == 0)
        rc = status_of(t, load_acquire(&record->word));
    if (rc < 0)
        return rc;
    struct answer_letter *letter = letter_new(t, BELFRY_REPLY, NULL, 0, data, size);
    if (letter == NULL)
        return -ENOMEM;
    rc = debit(s, t, record, outbox_cost(size));
    letter->record = letter->message->record = record;
    letter->message->flags = BELFRY_FLAG_MORE;
    if (rc == 0 && bf_mailbox_put(&shard->mailbox, &letter->letter))
        return 0;
    letter_free(letter);
    return rc < 0 ? rc : gone(t);
}

/* Half of it is free, and what was refused last would fit. Where nothing waits, anything does. */
static bool has_room(const belfry_server *s, const struct ticket_record *record)
{
    uint64_t queued = TICKET_QUEUED_BYTES(load_relaxed(&record->queued)), max = s->options.outbox_bytes_max;
    return queued == 0 || (queued <= max / 2 && queued + load_relaxed(&record->refused) <= max);
}

int belfry_ticket_wait(belfry_server *s, const belfry_ticket *t, int64_t deadline)
{
    struct bf_shard *shard;
    struct ticket_record *record;
    int rc = record_of(s, t, &shard, &record);
    if (rc == 0 && (bf_shard_self() != NULL || bf_own_loop_is_here(s)))
        rc = bf_error(BELFRY_ETHREAD, "a shard's thread must not wait: its clients would wait with it");
    if (rc < 0)
        return rc;
    for (;;) {
        uint32_t bell = load_acquire(&record->bell); /* before we say that we sleep, and before the last look */
        store_relaxed(&record->waited_for, 1);
        full_fence(); /* partner: wake_holder */
        rc = status_of(t, load_acquire(&record->word));
        bool room = has_room(s, record);
        int waited = 0;
        if (rc == 0 && !room) {
            struct bf_os_wait wait = {&record->bell, bell};
            waited = bf_os_wait(&wait, 1, deadline);
        }
        store_relaxed(&record->waited_for, 0);
        if (rc < 0 || room)
            return rc;
        if (waited == -ETIMEDOUT)
            return bf_error(-ETIMEDOUT, "the client of request %llu has not read in time",
                            (unsigned long long)t->request);
    }
}
