/* SPDX-License-Identifier: MIT */
/*
 * reactor.c: io/reactor.h over the simulated kernel: waits for words, wakes, inotify, one queue in and one queue out.
 *
 * What is asked goes out in its order at the next submit, or when the queue is full; between two entries others go on. The
 * records of inotify are laid out as the kernel lays them out, and decoded by io/watch.c.
 */
#include "io/reactor.h"

#include <errno.h>
#include <string.h>
#include <sys/inotify.h>

#include "base/error.h"
#include "base/os.h"
#include "sim.h"

#define REACTORS 8u
#define SUBMISSIONS 256u
#define COMPLETIONS 256u
#define WAKE_SOME 64u
#define ALL UINT32_MAX

enum entry_kind { ENTRY_BELL, ENTRY_MAILBOX, ENTRY_CANCEL, ENTRY_WAKE, ENTRY_DONE };

struct entry {
    enum entry_kind kind;
    const uint32_t *word;
    uint32_t value;
    uint64_t tag;
    int32_t result;
};

struct completion {
    uint64_t tag;
    int32_t result;
};

struct sim_reactor {
    struct sim_process *process; /* NULL: free */
    struct sim_inotify *inotify;
    struct sim_thread *sleeper;
    struct entry entries[SUBMISSIONS];
    unsigned entry_count;
    struct completion completions[COMPLETIONS];
    unsigned first, count;
    uint8_t records[URING_BUFFER_BYTES] __attribute__((aligned(8)));
};

static struct sim_reactor reactors[REACTORS];

/* Tags: a bell's slot and generation, the mailbox, or an owner's address, which is in a heap. */
#define TAG_MAILBOX (1ull << 63)
#define TAG_OWNER (1ull << 62)

static uint64_t bell_tag(uint32_t slot, uint32_t generation)
{
    return (uint64_t)slot << 32 | generation;
}

void sim_reactors_reset(void)
{
    for (unsigned i = 0; i < REACTORS; i++)
        reactors[i].process = NULL;
}

static struct sim_reactor *of(const struct bf_reactor *r)
{
    return (struct sim_reactor *)(void *)r->uring.buffers;
}

bool sim_reactor_rests(const void *reactor)
{
    const struct sim_reactor *k = of(reactor);
    return k->count == 0 && k->entry_count == 0 && k->inotify->count == 0;
}

/* --- open and close -------------------------------------------------------------------------------------------------- */

static int open_watches(struct bf_reactor *r, const char *lock_path, const char *service_path)
{
    int rc = r->watch_fd = bf_watch_open();
    if (rc >= 0)
        rc = r->watch_locks = bf_watch_add_locks(r->watch_fd, lock_path);
    if (rc >= 0)
        rc = r->watch_service = bf_watch_add_service(r->watch_fd, service_path);
    return rc;
}

int bf_reactor_open(struct bf_reactor *r, unsigned waits, const char *lock_path, const char *service_path)
{
    (void)waits;
    *r = (struct bf_reactor){.watch_fd = -1};
    sim_stores_seen(sim.current);
    sim_step();
    if (sim_fails("uring"))
        return bf_error(BELFRY_EMEMLOCK, "no memory for an io_uring");
    struct sim_reactor *k = NULL;
    for (unsigned i = 0; i < REACTORS && k == NULL; i++)
        if (reactors[i].process == NULL)
            k = &reactors[i];
    if (k == NULL)
        sim_fail("too many reactors");
    k->process = sim_self();
    k->inotify = NULL;
    k->sleeper = NULL;
    k->entry_count = k->first = k->count = 0;
    r->uring.buffers = (uint8_t *)k;
    r->uring.open = true;
    int rc = open_watches(r, lock_path, service_path);
    if (rc < 0) {
        bf_reactor_close(r);
        return rc;
    }
    k->inotify = sim_inotify_of(r->watch_fd);
    k->inotify->reader = k;
    return 0;
}

void bf_reactor_close(struct bf_reactor *r)
{
    struct sim_reactor *k = of(r);
    if (k->inotify != NULL)
        k->inotify->reader = NULL;
    sim_futex_forget_all(k);
    k->process = NULL;
    bf_os_close(r->watch_fd);
    *r = (struct bf_reactor){.watch_fd = -1};
}

void sim_process_drop_reactors(struct sim_process *p)
{
    for (unsigned i = 0; i < REACTORS; i++)
        if (reactors[i].process == p) {
            if (reactors[i].inotify != NULL)
                reactors[i].inotify->reader = NULL;
            sim_futex_forget_all(&reactors[i]);
            reactors[i].process = NULL;
        }
}

/* --- completions ----------------------------------------------------------------------------------------------------- */

void sim_reactor_complete(struct sim_reactor *k, uint64_t tag, int32_t result)
{
    if (k->count == COMPLETIONS)
        sim_fail("too many completions");
    k->completions[(k->first + k->count++) % COMPLETIONS] = (struct completion){tag, result};
    if (k->sleeper != NULL)
        sim_rouse(k->sleeper);
}

void sim_reactor_records(struct sim_reactor *k)
{
    if (k->sleeper != NULL)
        sim_rouse(k->sleeper);
}

/* --- asking ---------------------------------------------------------------------------------------------------------- */

/* One entry, in the kernel. */
static void carry_out(struct sim_reactor *k, const struct entry *e)
{
    switch (e->kind) {
    case ENTRY_BELL:
    case ENTRY_MAILBOX:
        sim_note(NULL, "arm", sim_word_key(k->process, e->word), e->value);
        if (sim_word_key(k->process, e->word) == 0)
            sim_reactor_complete(k, e->tag, -EFAULT);
        else if (!sim_futex_wait(e->word, e->value, k, e->tag))
            sim_reactor_complete(k, e->tag, -EAGAIN);
        break;
    case ENTRY_CANCEL:
        if (sim_futex_forget(k, e->tag))
            sim_reactor_complete(k, e->tag, -ECANCELED);
        break;
    case ENTRY_WAKE: {
        uint64_t key = sim_word_key(k->process, e->word);
        sim_note(NULL, "wake", key, 0);
        if (key != 0)
            sim_futex_wake(key, e->value, true);
        break;
    }
    case ENTRY_DONE:
        sim_reactor_complete(k, e->tag, e->result);
        break;
    }
}

void bf_reactor_submit(struct bf_reactor *r)
{
    struct sim_reactor *k = of(r);
    if (k->entry_count == 0)
        return;
    sim_stores_seen(sim.current);
    for (unsigned i = 0; i < k->entry_count; i++) {
        sim_step();
        carry_out(k, &k->entries[i]);
    }
    k->entry_count = 0;
    sim_step();
}

static void ask(struct bf_reactor *r, struct entry e)
{
    struct sim_reactor *k = of(r);
    if (k->entry_count >= sim.machine.submissions_max)
        bf_reactor_submit(r);
    k->entries[k->entry_count++] = e;
}

void bf_reactor_wait_bell(struct bf_reactor *r, const uint32_t *word, uint32_t value, uint32_t slot,
                          uint32_t generation)
{
    ask(r, (struct entry){.kind = ENTRY_BELL, .word = word, .value = value, .tag = bell_tag(slot, generation)});
}

void bf_reactor_cancel_bell(struct bf_reactor *r, uint32_t slot, uint32_t generation)
{
    ask(r, (struct entry){.kind = ENTRY_CANCEL, .tag = bell_tag(slot, generation)});
}

void bf_reactor_wait_mailbox(struct bf_reactor *r, const uint32_t *word, uint32_t value)
{
    ask(r, (struct entry){.kind = ENTRY_MAILBOX, .word = word, .value = value, .tag = TAG_MAILBOX});
}

void bf_reactor_cancel_mailbox(struct bf_reactor *r)
{
    ask(r, (struct entry){.kind = ENTRY_CANCEL, .tag = TAG_MAILBOX});
}

/* This kernel has no other operations. */
int bf_reactor_start(struct bf_reactor *r, void *const *owners, const struct io_uring_sqe *sqes, unsigned count)
{
    (void)sqes;
    for (unsigned i = 0; i < count; i++)
        ask(r, (struct entry){.kind = ENTRY_DONE, .tag = TAG_OWNER | (uintptr_t)owners[i], .result = -EINVAL});
    return 0;
}

void bf_reactor_cancel_owned(struct bf_reactor *r, const void *owner)
{
    ask(r, (struct entry){.kind = ENTRY_CANCEL, .tag = TAG_OWNER | (uintptr_t)owner});
}

void bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes)
{
    (void)at, (void)bytes;
    ask(r, (struct entry){.kind = ENTRY_DONE, .tag = TAG_OWNER | (uintptr_t)owner});
}

void bf_reactor_wake(struct bf_reactor *r, const uint32_t *word)
{
    ask(r, (struct entry){.kind = ENTRY_WAKE, .word = word, .value = ALL});
}

void bf_reactor_wake_some(struct bf_reactor *r, const uint32_t *word)
{
    ask(r, (struct entry){.kind = ENTRY_WAKE, .word = word, .value = WAKE_SOME});
}

void bf_reactor_sleep(struct bf_reactor *r, int64_t timeout_ns)
{
    struct sim_reactor *k = of(r);
    bf_reactor_submit(r);
    sim_stores_seen(sim.current);
    sim_step();
    if (sim_one_in(sim.machine.interrupt_one_in))
        return;
    int64_t deadline_ns = timeout_ns < 0 ? INT64_MAX : sim.now_ns + timeout_ns;
    sim_note(SIM_SITE(), "sleep", 0, (uint64_t)timeout_ns);
    k->sleeper = sim.current;
    bool roused = true;
    while (roused && k->count == 0 && k->inotify->count == 0)
        roused = sim_sleep(deadline_ns, "events");
    k->sleeper = NULL;
    sim_note(SIM_SITE(), "awake", 0, 0);
}

/* --- sleeping elsewhere: there is no event here ------------------------------------------------------------------------ */

int bf_reactor_tell(struct bf_reactor *r, int event_fd)
{
    (void)r, (void)event_fd;
    return bf_error(BELFRY_EKERNEL, "this kernel has no eventfd");
}

bool bf_reactor_doze(struct bf_reactor *r, int event_fd, int64_t timeout_ns)
{
    (void)event_fd, (void)timeout_ns;
    bf_reactor_submit(r);
    return false;
}

/* --- being told -------------------------------------------------------------------------------------------------------- */

/* Some of the records that wait, as a read of the kernel's gives them. */
static void read_records(struct bf_reactor *r)
{
    struct sim_reactor *k = of(r);
    struct sim_record record;
    size_t at = 0;
    while (at + sizeof(struct inotify_event) + sizeof record.name <= sizeof k->records &&
           sim_inotify_take(k->inotify, &record)) {
        struct inotify_event head = {.wd = record.watch, .mask = record.mask, .len = sizeof record.name};
        memcpy(k->records + at, &head, sizeof head);
        memcpy(k->records + at + sizeof head, record.name, sizeof record.name);
        at += sizeof head + sizeof record.name;
    }
    r->records_open = at > 0;
    r->records_bytes = at;
    r->records_offset = 0;
}

static bool next_record(struct bf_reactor *r, struct bf_event *event)
{
    struct watch_change change;
    if (!r->records_open)
        read_records(r);
    if (!r->records_open)
        return false;
    if (!bf_watch_next(of(r)->records, r->records_bytes, &r->records_offset, &change)) {
        r->records_open = false;
        return false;
    }
    event->name = change.name;
    event->closed = change.closed;
    event->kind = change.overflow                    ? BF_EVENT_RESCAN
                  : change.watch == r->watch_service ? BF_EVENT_SERVICE
                  : change.gone                      ? BF_EVENT_GONE
                                                     : BF_EVENT_FILE;
    return true;
}

static void tell(struct bf_event *event, const struct completion *c)
{
    event->result = c->result;
    if (c->tag == TAG_MAILBOX) {
        event->kind = BF_EVENT_MAILBOX;
    } else if ((c->tag & TAG_OWNER) != 0) {
        event->kind = BF_EVENT_OWNED;
        event->owner = (void *)(uintptr_t)(c->tag & ~TAG_OWNER);
    } else {
        event->kind = BF_EVENT_BELL;
        event->slot = (uint32_t)(c->tag >> 32);
        event->generation = (uint32_t)c->tag;
    }
}

bool bf_reactor_next(struct bf_reactor *r, struct bf_event *event)
{
    struct sim_reactor *k = of(r);
    sim_step();
    *event = (struct bf_event){.name = ""};
    bool records_first = sim_below(2) == 0;
    if (r->records_open || (records_first && k->inotify->count > 0))
        if (next_record(r, event))
            return true;
    if (k->count > 0) {
        struct completion c = k->completions[k->first];
        k->first = (k->first + 1) % COMPLETIONS;
        k->count--;
        tell(event, &c);
        sim_note(SIM_SITE(), "event", c.tag, (uint32_t)c.result);
        return true;
    }
    if (next_record(r, event))
        return true;
    return false;
}
