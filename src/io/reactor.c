/* SPDX-License-Identifier: MIT */
/*
 * reactor.c: user_data in, events out.
 *
 * user_data says what completed: a kind in the top byte, then slot (24 bits) and generation (32 bits), or the address of
 * an owner (56 bits). Wakes ask for no
 * completion; one that comes all the same is an error of the word's own making and is dropped.
 */
#include "io/reactor.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "io/compat.h"

#define WAKE_SOME 64
#define SUBMISSIONS 256u
#define COMPLETIONS_MAX 65536u
#define NS_PER_S 1000000000ll

enum tag_kind { TAG_QUIET = 0, TAG_WATCH = 1, TAG_BELL = 2, TAG_MAILBOX = 3, TAG_OWNED = 4, TAG_ALARM = 5 };

static uint64_t tag(enum tag_kind kind, uint32_t slot, uint32_t generation)
{
    return (uint64_t)kind << 56 | (uint64_t)(slot & 0xffffff) << 32 | generation;
}

#define OWNER_MASK ((1ull << 56) - 1)

static uint64_t tag_owner(const void *owner)
{
    INVARIANT(((uintptr_t)owner & ~OWNER_MASK) == 0);
    return (uint64_t)TAG_OWNED << 56 | (uintptr_t)owner;
}

/* --- open and close ---------------------------------------------------------------------------------------------- */

static void arm_watch(struct bf_reactor *r)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    compat_prep_read_multishot(sqe, r->watch_fd, URING_BUFFER_GROUP);
    sqe->user_data = tag(TAG_WATCH, 0, 0);
    r->watch_armed = true;
}

int bf_reactor_open(struct bf_reactor *r, unsigned waits, const char *lock_path, const char *service_path)
{
    *r = (struct bf_reactor){.watch_fd = -1};
    int rc = bf_uring_open(&r->uring, SUBMISSIONS, bf_min(waits + SUBMISSIONS, COMPLETIONS_MAX));
    if (rc < 0)
        return rc;
    rc = r->watch_fd = bf_watch_open();
    if (rc >= 0)
        rc = r->watch_locks = bf_watch_add_locks(r->watch_fd, lock_path);
    if (rc >= 0)
        rc = r->watch_service = bf_watch_add_service(r->watch_fd, service_path);
    if (rc < 0) {
        bf_reactor_close(r);
        return rc;
    }
    arm_watch(r);
    return 0;
}

void bf_reactor_close(struct bf_reactor *r)
{
    bf_uring_close(&r->uring);
    bf_os_close(r->watch_fd);
    *r = (struct bf_reactor){.watch_fd = -1};
}

/* --- asking ------------------------------------------------------------------------------------------------------ */

void bf_reactor_wait_bell(struct bf_reactor *r, const uint32_t *word, uint32_t value, uint32_t slot,
                          uint32_t generation)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    compat_prep_futex_wait(sqe, word, value);
    sqe->user_data = tag(TAG_BELL, slot, generation);
}

static void cancel(struct bf_reactor *r, uint64_t what)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    io_uring_prep_cancel64(sqe, what, 0);
    sqe->user_data = tag(TAG_QUIET, 0, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

void bf_reactor_cancel_bell(struct bf_reactor *r, uint32_t slot, uint32_t generation)
{
    cancel(r, tag(TAG_BELL, slot, generation));
}

void bf_reactor_wait_mailbox(struct bf_reactor *r, const uint32_t *word, uint32_t value)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    compat_prep_futex_wait(sqe, word, value);
    sqe->user_data = tag(TAG_MAILBOX, 0, 0);
}

void bf_reactor_cancel_mailbox(struct bf_reactor *r)
{
    cancel(r, tag(TAG_MAILBOX, 0, 0));
}

#define FLAGS_LINK (IOSQE_IO_LINK | IOSQE_IO_HARDLINK)

static int check_flags(const struct io_uring_sqe *sqe, bool last)
{
    if ((sqe->flags & IOSQE_IO_DRAIN) != 0)
        return bf_error(BELFRY_EOPTION, "IOSQE_IO_DRAIN would wait for doorbells that nobody rings: use a chain");
    if ((sqe->flags & IOSQE_CQE_SKIP_SUCCESS) != 0)
        return bf_error(BELFRY_EOPTION, "IOSQE_CQE_SKIP_SUCCESS: without a completion the operation would never end");
    if ((sqe->flags & IOSQE_BUFFER_SELECT) != 0 && sqe->buf_group == URING_BUFFER_GROUP)
        return bf_error(BELFRY_EOPTION, "buffer group %u is the library's: use another", URING_BUFFER_GROUP);
    if (last && (sqe->flags & FLAGS_LINK) != 0)
        return bf_error(BELFRY_EOPTION, "IOSQE_IO_LINK on the last operation would link it to one of the library's");
    if (!last && (sqe->flags & FLAGS_LINK) == 0)
        return bf_error(BELFRY_EOPTION, "an operation in a chain needs IOSQE_IO_LINK or IOSQE_IO_HARDLINK");
    return 0;
}

int bf_reactor_start(struct bf_reactor *r, void *const *owners, const struct io_uring_sqe *sqes, unsigned count)
{
    INVARIANT(count <= REACTOR_CHAIN_MAX);
    for (unsigned i = 0; i < count; i++) {
        int rc = check_flags(&sqes[i], i + 1 == count);
        if (rc < 0)
            return rc;
    }
    bf_uring_reserve(&r->uring, count); /* a link ends where a submission ends */
    for (unsigned i = 0; i < count; i++) {
        struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
        *sqe = sqes[i];
        sqe->user_data = tag_owner(owners[i]);
    }
    return 0;
}

void bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes)
{
    INVARIANT(bytes <= REACTOR_POPULATE_MAX);
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    size_t into = (uintptr_t)at % BF_OS_PAGE_BYTES;
    io_uring_prep_madvise(sqe, (uint8_t *)at - into, (uint32_t)(bytes + into), MADV_POPULATE_WRITE);
    sqe->user_data = tag_owner(owner);
}

void bf_reactor_cancel_owned(struct bf_reactor *r, const void *owner)
{
    cancel(r, tag_owner(owner));
}

static void wake(struct bf_reactor *r, const uint32_t *word, int32_t count)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    compat_prep_futex_wake(sqe, word, count);
    sqe->user_data = tag(TAG_QUIET, 0, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

void bf_reactor_wake(struct bf_reactor *r, const uint32_t *word)
{
    wake(r, word, INT32_MAX);
}

void bf_reactor_wake_some(struct bf_reactor *r, const uint32_t *word)
{
    wake(r, word, WAKE_SOME);
}

void bf_reactor_submit(struct bf_reactor *r)
{
    bf_uring_submit(&r->uring);
}

void bf_reactor_sleep(struct bf_reactor *r, int64_t timeout_ns)
{
    struct __kernel_timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
    struct io_uring_cqe *cqe;
    int rc = io_uring_submit_and_wait_timeout(&r->uring.ring, &cqe, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    if (rc == -EBUSY || rc == -EAGAIN) {
        io_uring_get_events(&r->uring.ring);
        return;
    }
    INVARIANT(rc >= 0 || rc == -ETIME || rc == -EINTR);
}

/* --- sleeping elsewhere ------------------------------------------------------------------------------------------- */

int bf_reactor_tell(struct bf_reactor *r, int event_fd)
{
    int rc = io_uring_register_eventfd(&r->uring.ring, event_fd);
    return rc < 0 ? bf_error_errno(rc, "cannot have the io_uring set an event") : 0;
}

/* One that comes too early costs a turn; so an alarm is moved to an earlier time only. */
static void set_alarm(struct bf_reactor *r, int64_t at_ns)
{
    if (r->alarm_at_ns != 0 && r->alarm_at_ns <= at_ns)
        return;
    struct io_uring_sqe *sqe = bf_uring_entry(&r->uring);
    r->alarm = (struct __kernel_timespec){.tv_sec = at_ns / NS_PER_S, .tv_nsec = at_ns % NS_PER_S};
    if (r->alarm_at_ns == 0) {
        io_uring_prep_timeout(sqe, &r->alarm, 0, IORING_TIMEOUT_ABS);
        sqe->user_data = tag(TAG_ALARM, 0, 0);
    } else { /* fails when it has just gone off, which is then told as always */
        io_uring_prep_timeout_update(sqe, &r->alarm, tag(TAG_ALARM, 0, 0), IORING_TIMEOUT_ABS);
        sqe->user_data = tag(TAG_QUIET, 0, 0);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    }
    r->alarm_at_ns = at_ns;
}

/*
 * The kernel counts the event up when it adds work for this thread, and once more when the thread has turned that into
 * completions, so it is cleared as the last thing before the look. The flag is set before the event: whatever is
 * swallowed by the clear is seen by the look.
 */
bool bf_reactor_doze(struct bf_reactor *r, int event_fd, int64_t timeout_ns)
{
    if (timeout_ns >= 0)
        set_alarm(r, bf_os_now_ns() + timeout_ns);
    bf_uring_submit(&r->uring);
    bf_os_event_clear(event_fd);
    return !r->records_open && !uring_has_completions(&r->uring);
}

/* --- being told -------------------------------------------------------------------------------------------------- */

/* Hand out one record of the open buffer; give the buffer back after its last. */
static bool next_record(struct bf_reactor *r, struct bf_event *event)
{
    struct watch_change change;
    while (r->records_open) {
        const uint8_t *buffer = uring_buffer(&r->uring, r->records_id);
        if (!bf_watch_next(buffer, r->records_bytes, &r->records_offset, &change)) {
            r->records_open = false;
            bf_uring_return_buffer(&r->uring, r->records_id);
            if (!r->watch_armed)
                arm_watch(r);
            return false;
        }
        event->name = change.name;
        event->closed = change.closed;
        if (change.overflow)
            event->kind = BF_EVENT_RESCAN;
        else if (change.watch == r->watch_service)
            event->kind = BF_EVENT_SERVICE;
        else if (change.gone)
            event->kind = BF_EVENT_GONE;
        else
            event->kind = BF_EVENT_FILE;
        return true;
    }
    return false;
}

/* A completion of the watch: open its buffer; or, when the read failed, ask for a look at everything. */
static bool take_watch(struct bf_reactor *r, const struct io_uring_cqe *cqe, struct bf_event *event)
{
    r->watch_armed = (cqe->flags & IORING_CQE_F_MORE) != 0;
    if (cqe->res > 0 && (cqe->flags & IORING_CQE_F_BUFFER) != 0) {
        r->records_open = true;
        r->records_id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        r->records_bytes = (size_t)cqe->res;
        r->records_offset = 0;
        return false;
    }
    if (!r->watch_armed)
        arm_watch(r);
    /* -ENOBUFS: all buffers were full; nothing is lost, the queue is read again. */
    if (cqe->res >= 0 || cqe->res == -ENOBUFS || cqe->res == -EAGAIN || cqe->res == -EINTR)
        return false;
    event->kind = BF_EVENT_RESCAN;
    return true;
}

bool bf_reactor_next(struct bf_reactor *r, struct bf_event *event)
{
    struct io_uring_cqe *cqe;
    for (;;) {
        *event = (struct bf_event){.name = ""};
        if (next_record(r, event))
            return true;
        if (io_uring_peek_cqe(&r->uring.ring, &cqe) != 0)
            return false;

        bool told = false;
        switch ((enum tag_kind)(cqe->user_data >> 56)) {
        case TAG_WATCH:
            told = take_watch(r, cqe, event);
            break;
        case TAG_BELL:
            event->kind = BF_EVENT_BELL;
            event->slot = (uint32_t)(cqe->user_data >> 32) & 0xffffff;
            event->generation = (uint32_t)cqe->user_data;
            event->result = cqe->res;
            told = true;
            break;
        case TAG_MAILBOX:
            event->kind = BF_EVENT_MAILBOX;
            event->result = cqe->res;
            told = true;
            break;
        case TAG_OWNED:
            event->kind = BF_EVENT_OWNED;
            event->owner = (void *)(uintptr_t)(cqe->user_data & OWNER_MASK);
            event->result = cqe->res;
            event->flags = cqe->flags;
            event->more = (cqe->flags & IORING_CQE_F_MORE) != 0;
            told = true;
            break;
        case TAG_ALARM:
            r->alarm_at_ns = 0;
            break;
        case TAG_QUIET:
            break;
        }
        io_uring_cqe_seen(&r->uring.ring, cqe);
        if (told)
            return true;
    }
}
