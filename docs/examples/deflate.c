/* SPDX-License-Identifier: MIT */
/*
 * deflate.c: a compression service on zlib, and a client that checks every byte of it.
 *
 *     deflate serve [NAME]           compress for whoever connects, until SIGINT or SIGTERM
 *     deflate send [NAME] PATH...    send files, and all files below directories; inflate and compare what comes back
 *     deflate demo PATH...           both at once: start a server, send, stop the server
 *
 * A file travels in pieces, each a request: a small header and some of the file's bytes. The first piece begins a
 * compressed stream, the last finishes it; a small file is one piece that does both. The server keeps one z_stream per
 * conn, so the pieces of one file compress as a whole.
 *
 * What a piece makes zlib give has no useful limit: zlib holds bytes back until a block is worth writing and then lets
 * go of all of it (30,132 bytes were seen after a piece of one byte). So no piece size, however small, ensures that the
 * answer fits one message. The server therefore pushes full messages for as long as zlib fills them and replies with
 * the rest, which may be empty. One conn delivers in order: everything that arrives, put end to end, is the stream.
 * This is right for every input and every message size, and rests on nothing that zlib does not promise.
 *
 * The client keeps several requests in flight, over the ends of files too. It keeps what it sent until that has come
 * back, so a file that changes meanwhile does not matter, and a giant one need not fit into memory: zlib holds back one
 * block at most, which is about 4 MiB of the most compressible input.
 */
#define ZLIB_CONST
#include <belfry/client.h>
#include <belfry/server.h>

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define SERVICE "deflate"
#define EXIT_UNAVAILABLE 69 /* this machine cannot run a server; the sentence says why */
#define MESSAGE_MAX 65536u  /* larger messages would only cost memory */
#define IN_FLIGHT_MAX 8u
#define PATIENCE_MS 30000 /* for an answer */
#define START_MS 10000    /* for the demo's server to come and to go */

/* A request begins with this; the piece follows. `bytes` says its length once more, to be checked. */
struct header {
    uint32_t flags;
    uint32_t bytes;
};

#define PIECE_BEGINS 0x1u   /* of a file: a new stream */
#define PIECE_FINISHES 0x2u /* of a file: the answer ends the stream */
#define PIECE_FLAGS (PIECE_BEGINS | PIECE_FINISHES)

/* Why a piece was not compressed; numbers and sentences of our own. */
#define NOT_A_PIECE (BELFRY_EUSER - 1)
#define ZLIB_FAILED (BELFRY_EUSER - 2)

/* --- the server: everything here runs on a shard's thread, and a conn stays on its shard ------------------------ */

/* A conn's stream, made when its first file begins, and used again for every further one. */
struct stream {
    z_stream z;
    bool open;   /* begun and not finished */
    size_t room; /* bytes in `out`: one message */
    unsigned char out[];
};

static void *zlib_alloc(void *opaque, unsigned count, unsigned size)
{
    (void)opaque;
    return belfry_alloc((size_t)count * size);
}

static void zlib_free(void *opaque, void *pointer)
{
    (void)opaque;
    belfry_free(pointer);
}

static struct stream *stream_create(const belfry_conn *conn)
{
    size_t room = belfry_conn_message_bytes_max(conn);
    if (room > MESSAGE_MAX)
        room = MESSAGE_MAX;
    struct stream *s = belfry_alloc(sizeof *s + room);
    if (!s)
        return NULL;
    *s = (struct stream){.z = {.zalloc = zlib_alloc, .zfree = zlib_free}, .room = room};
    if (deflateInit(&s->z, Z_DEFAULT_COMPRESSION) != Z_OK) {
        belfry_free(s);
        return NULL;
    }
    return s;
}

/* Compress one piece and answer it. Returns what the answer returned; after a failure the request is unanswered. */
static int stream_answer(struct stream *s, belfry_conn *conn, const belfry_message *m, const void *piece, size_t size,
                         bool finish)
{
    s->z.next_in = piece;
    s->z.avail_in = (unsigned)size;
    for (;;) {
        s->z.next_out = s->out;
        s->z.avail_out = (unsigned)s->room;
        int z = deflate(&s->z, finish ? Z_FINISH : Z_NO_FLUSH);
        if (z != Z_OK && z != Z_STREAM_END && z != Z_BUF_ERROR) /* the last: there was nothing to do, no error */
            return ZLIB_FAILED;
        size_t given = s->room - s->z.avail_out;

        /* As long as zlib fills the room it may have more. Room left over means that the piece is all taken in. */
        if (z == Z_STREAM_END || s->z.avail_out > 0)
            return belfry_reply(conn, m, s->out, given);
        int rc = belfry_push(conn, s->out, given);
        if (rc < 0)
            return rc;
    }
}

static int piece_answer(belfry_conn *conn, const belfry_message *m)
{
    struct stream *s = belfry_conn_user(conn);
    struct header h;

    if (m->size < sizeof h)
        return NOT_A_PIECE;
    memcpy(&h, m->data, sizeof h);
    if (h.bytes != m->size - sizeof h || (h.flags & ~PIECE_FLAGS))
        return NOT_A_PIECE;

    if (h.flags & PIECE_BEGINS) {
        if (!s) {
            s = stream_create(conn);
            if (!s)
                return -ENOMEM;
            belfry_conn_set_user(conn, s);
        } else if (deflateReset(&s->z) != Z_OK) {
            return ZLIB_FAILED;
        }
        s->open = true;
    }
    if (!s || !s->open)
        return NOT_A_PIECE;

    /* After a failure the client's stream has a hole: what follows is refused until a file begins. */
    int rc = stream_answer(s, conn, m, (const char *)m->data + sizeof h, h.bytes, h.flags & PIECE_FINISHES);
    s->open = rc == 0 && !(h.flags & PIECE_FINISHES);
    return rc;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind != BELFRY_REQUEST)
        return;
    int rc = piece_answer(conn, m);
    if (rc == 0)
        return;
    const char *text = rc == NOT_A_PIECE   ? "not a piece of a file, or one without a beginning"
                       : rc == ZLIB_FAILED ? "zlib reports a damaged state"
                                           : belfry_error_text(rc);
    if (belfry_fail(conn, m, rc, text) < 0)
        belfry_disconnect(conn);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    struct stream *s = belfry_conn_user(conn);

    (void)why;
    (void)user;
    if (!s)
        return;
    deflateEnd(&s->z);
    belfry_free(s);
}

/* Whether the machine is at fault, rather than this program or its arguments. */
static bool is_unavailable(int rc)
{
    return rc == BELFRY_EKERNEL || rc == BELFRY_EFORBIDDEN || rc == BELFRY_EMEMLOCK || rc == BELFRY_ENOFILES ||
           rc == BELFRY_EMAPS || rc == BELFRY_ENOSPACE;
}

static int serve(const char *name)
{
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = name;
    o.on_message = on_message;
    o.on_disconnect = on_disconnect;
    o.stop_signals = true;

    belfry_server *s;
    int rc = belfry_server_create(&s, &o);
    if (rc == 0)
        rc = belfry_server_run(s);
    if (rc < 0)
        fprintf(stderr, "deflate: %s\n", belfry_last_error());
    belfry_server_destroy(s);
    return rc == 0 ? 0 : is_unavailable(rc) ? EXIT_UNAVAILABLE : 1;
}

/* --- the client: bytes that were sent and have not come back yet ------------------------------------------------ */

/* Positions count all bytes of all files, in the order in which they were sent. */
struct kept {
    unsigned char *data;
    size_t begin, end, room; /* in `data` */
    uint64_t position;       /* of data[begin] */
};

static int kept_append(struct kept *k, const void *data, size_t size)
{
    if (k->room - k->end < size && k->begin > 0) {
        memmove(k->data, k->data + k->begin, k->end - k->begin);
        k->end -= k->begin;
        k->begin = 0;
    }
    if (k->room - k->end < size) {
        size_t room = 2 * k->room + size;
        unsigned char *larger = realloc(k->data, room);
        if (!larger)
            return -ENOMEM;
        k->data = larger;
        k->room = room;
    }
    if (size > 0)
        memcpy(k->data + k->end, data, size);
    k->end += size;
    return 0;
}

/* The position after the last byte. */
static uint64_t kept_end(const struct kept *k)
{
    return k->position + (k->end - k->begin);
}

static void kept_drop(struct kept *k, size_t size)
{
    k->begin += size;
    k->position += size;
}

/* --- the client: one connection, its requests in flight, and the stream that comes back ------------------------- */

struct in_flight {
    uint64_t id;
    uint64_t end; /* position after its piece */
    char *path;   /* of the file that it finishes, else NULL */
};

struct sender {
    belfry_client *client;
    bool lost;            /* the connection is over, or we are */
    unsigned char *piece; /* a header and room for piece_bytes */
    size_t piece_bytes;

    struct in_flight in_flight[IN_FLIGHT_MAX]; /* `count` of them, from `oldest` on; answered in this order */
    unsigned oldest, count;

    struct kept kept;
    z_stream inflater;   /* of the oldest file that is not yet back */
    bool ended;          /* its stream has ended */
    char complaint[256]; /* what is wrong with it; "" = nothing so far */
    unsigned char inflated[65536];

    uint64_t files, bytes, compressed, mismatches, unreadable;
};

static struct in_flight *sender_oldest(struct sender *s)
{
    return &s->in_flight[s->oldest];
}

/* The connection cannot be used any more: say why, once. */
static void sender_lose(struct sender *s, const char *why)
{
    if (!s->lost)
        fprintf(stderr, "deflate: %s\n", why);
    s->lost = true;
}

static void sender_complain(struct sender *s, const char *what)
{
    if (!s->complaint[0])
        snprintf(s->complaint, sizeof s->complaint, "%s", what);
}

static void sender_unreadable(struct sender *s, const char *path, const char *why)
{
    fprintf(stderr, "deflate: %s: %s\n", path, why);
    s->unreadable++;
}

/* Where the file that comes back ends, or what was sent of it ends so far: not a byte beyond is compared with it. */
static uint64_t sender_file_end(const struct sender *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        const struct in_flight *f = &s->in_flight[(s->oldest + i) % IN_FLIGHT_MAX];
        if (f->path)
            return f->end;
    }
    return kept_end(&s->kept);
}

/* Inflate some of what came back, and compare. */
static void sender_compare(struct sender *s, const void *data, size_t size)
{
    z_stream *z = &s->inflater;

    s->compressed += size;
    z->next_in = data;
    z->avail_in = (unsigned)size;
    while (size > 0 && !s->complaint[0]) {
        if (s->ended) {
            sender_complain(s, "came back with bytes after the end of its stream");
            return;
        }
        z->next_out = s->inflated;
        z->avail_out = sizeof s->inflated;
        int rc = inflate(z, Z_NO_FLUSH);
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) { /* the last: nothing to do this time */
            char text[sizeof s->complaint];
            snprintf(text, sizeof text, "came back damaged: %s", z->msg ? z->msg : "no more is known");
            sender_complain(s, text);
            return;
        }
        size_t given = sizeof s->inflated - z->avail_out;
        if (given > sender_file_end(s) - s->kept.position)
            sender_complain(s, "came back longer than it was sent");
        else if (given > 0 && memcmp(s->kept.data + s->kept.begin, s->inflated, given) != 0)
            sender_complain(s, "came back with other bytes");
        else
            kept_drop(&s->kept, given);

        s->ended = rc == Z_STREAM_END;
        if (z->avail_in == 0 && (s->ended || z->avail_out > 0))
            return;
    }
}

/* The oldest request has its answer, or never will. If it finished a file, that file is judged now. */
static void sender_conclude(struct sender *s)
{
    struct in_flight *f = sender_oldest(s);

    if (f->path) {
        if (!s->ended || s->kept.position != f->end)
            sender_complain(s, "came back shorter than it was sent");
        if (s->complaint[0]) {
            fprintf(stderr, "deflate: %s: %s\n", f->path, s->complaint);
            s->mismatches++;
        }
    }
    if (s->complaint[0] && s->kept.position < f->end) /* of a bad file nothing is kept any more */
        kept_drop(&s->kept, (size_t)(f->end - s->kept.position));
    if (f->path) {
        free(f->path);
        f->path = NULL;
        inflateReset(&s->inflater);
        s->ended = false;
        s->complaint[0] = '\0';
    }
    s->oldest = (s->oldest + 1) % IN_FLIGHT_MAX;
    s->count--;
}

/* Wait for one message, or for room to send. */
static void sender_receive(struct sender *s)
{
    belfry_message m;
    int rc = belfry_receive(s->client, &m, belfry_in_ms(PATIENCE_MS));

    if (rc == -EAGAIN)
        return;
    if (rc < 0) {
        sender_lose(s, belfry_last_error());
        return;
    }
    if (s->count == 0 || (m.kind != BELFRY_PUSH && m.id != sender_oldest(s)->id)) {
        sender_lose(s, "the service answers what was not asked; is it a deflate service?");
    } else if (m.kind == BELFRY_PUSH) {
        sender_compare(s, m.data, m.size);
    } else if (m.status < 0) {
        char text[sizeof s->complaint];
        snprintf(text, sizeof text, "the service failed (%d): %.*s", m.status, (int)m.size, (const char *)m.data);
        sender_complain(s, text);
        sender_conclude(s);
    } else {
        sender_compare(s, m.data, m.size);
        sender_conclude(s);
    }
    belfry_release(s->client, &m);
}

/* Send the piece that stands in s->piece. `path` is given with the last one of a file. */
static void sender_send(struct sender *s, size_t size, bool begins, const char *path)
{
    struct header h = {.bytes = (uint32_t)size};
    h.flags = (begins ? PIECE_BEGINS : 0) | (path ? PIECE_FINISHES : 0);
    memcpy(s->piece, &h, sizeof h);

    char *name = path ? strdup(path) : NULL;
    if ((path && !name) || kept_append(&s->kept, s->piece + sizeof h, size) < 0) {
        sender_lose(s, "no memory for what was sent and is not back yet");
        free(name);
        return;
    }

    /* A full ring, theirs or ours, empties by receiving. */
    int rc = -EAGAIN;
    uint64_t id = 0;
    while (rc == -EAGAIN && !s->lost) {
        if (s->count < IN_FLIGHT_MAX)
            rc = belfry_send(s->client, s->piece, sizeof h + size, &id);
        if (rc == -EAGAIN)
            sender_receive(s);
        else if (rc < 0)
            sender_lose(s, belfry_last_error());
    }
    if (rc < 0) {
        free(name);
        return;
    }
    s->in_flight[(s->oldest + s->count) % IN_FLIGHT_MAX] = (struct in_flight){id, kept_end(&s->kept), name};
    s->count++;
    s->bytes += size;
}

/* --- the client: files ------------------------------------------------------------------------------------------ */

/* Read `size` bytes, or less at the end of the file. */
static ssize_t read_fully(int fd, unsigned char *to, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(fd, to + have, size - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

/*
 * Send one file, as long as it is now: what is appended later is not waited for, and what is cut off is not missed.
 */
static void send_file(struct sender *s, const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &status) < 0) {
        sender_unreadable(s, path, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        sender_unreadable(s, path, "no longer a regular file");
    } else {
        uint64_t left = (uint64_t)status.st_size;
        bool begins = true, last = false, whole = true;
        while (!last && !s->lost) {
            size_t want = left < s->piece_bytes ? (size_t)left : s->piece_bytes;
            ssize_t n = read_fully(fd, s->piece + sizeof(struct header), want);
            if (n < 0) {
                sender_unreadable(s, path, strerror((int)-n));
                whole = false;
                if (begins)
                    break;
                n = 0; /* finish what has begun */
            }
            left -= (uint64_t)n;
            last = left == 0 || (size_t)n < want;
            sender_send(s, (size_t)n, begins, last ? path : NULL);
            begins = false;
        }
        if (s->lost) {
            fprintf(stderr, "deflate: %s: interrupted\n", path);
            s->mismatches++;
        } else if (whole) {
            s->files++;
        }
    }
    if (fd >= 0)
        close(fd);
}

/* Send every regular file at or below `paths`. Symbolic links are not followed. */
static void send_tree(struct sender *s, char **paths)
{
    FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    FTSENT *e = NULL;

    if (!tree) {
        sender_unreadable(s, paths[0], strerror(errno));
        return;
    }
    while (!s->lost && (errno = 0, e = fts_read(tree))) {
        switch (e->fts_info) {
        case FTS_F:
            send_file(s, e->fts_path);
            break;
        case FTS_DNR:
        case FTS_NS:
        case FTS_ERR:
            sender_unreadable(s, e->fts_path, strerror(e->fts_errno));
            break;
        case FTS_DC:
            sender_unreadable(s, e->fts_path, "a directory that contains itself");
            break;
        case FTS_D:
        case FTS_DP:
            break;
        default: /* symbolic links, sockets, devices: passed by, except when asked for by name */
            if (e->fts_level == FTS_ROOTLEVEL)
                sender_unreadable(s, e->fts_path, "neither a regular file nor a directory");
        }
    }
    if (!s->lost && !e && errno != 0)
        sender_unreadable(s, "the tree", strerror(errno));
    fts_close(tree);
}

static void print_table(const struct sender *s, int64_t took_ns)
{
    double seconds = took_ns > 0 ? (double)took_ns / 1e9 : 1e-9;
    double ratio = s->bytes > 0 ? (double)s->compressed / (double)s->bytes : 1.0;

    printf("%10s %14s %16s %7s %9s %10s %10s\n", "files", "bytes in", "bytes compressed", "ratio", "MB/s", "mismatches",
           "unreadable");
    printf("%10llu %14llu %16llu %7.3f %9.1f %10llu %10llu\n", (unsigned long long)s->files,
           (unsigned long long)s->bytes, (unsigned long long)s->compressed, ratio, (double)s->bytes / 1e6 / seconds,
           (unsigned long long)s->mismatches, (unsigned long long)s->unreadable);
    fflush(stdout);
}

/* Send `paths` over `client`, wait for all that is in flight, print the table. Returns the exit status. */
static int send_paths(belfry_client *client, char **paths)
{
    struct sender *s = calloc(1, sizeof *s);
    size_t message_bytes = belfry_message_bytes_max(client);
    int failed = 1;

    if (message_bytes > MESSAGE_MAX)
        message_bytes = MESSAGE_MAX;
    if (s && message_bytes > sizeof(struct header))
        s->piece = malloc(message_bytes);
    if (!s || !s->piece || inflateInit(&s->inflater) != Z_OK) {
        fprintf(stderr, "deflate: no memory, or no room for a piece in messages of %zu bytes\n", message_bytes);
    } else {
        int64_t started_ns = belfry_now_ns();
        s->client = client;
        s->piece_bytes = message_bytes - sizeof(struct header);
        printf("pieces of %zu bytes, %u requests in flight\n", s->piece_bytes, IN_FLIGHT_MAX);

        send_tree(s, paths);
        while (s->count > 0 && !s->lost)
            sender_receive(s);
        while (s->count > 0) { /* the connection is lost */
            sender_complain(s, "not answered");
            sender_conclude(s);
        }

        print_table(s, belfry_now_ns() - started_ns);
        failed = s->lost || s->mismatches > 0;
        inflateEnd(&s->inflater);
    }
    if (s) {
        free(s->kept.data);
        free(s->piece);
    }
    free(s);
    return failed;
}

static int send_to(const char *name, char **paths)
{
    belfry_client *client;

    if (belfry_connect(&client, name, NULL) < 0) {
        fprintf(stderr, "deflate: %s\n", belfry_last_error());
        return 1;
    }
    int failed = send_paths(client, paths);
    belfry_close(client);
    return failed;
}

/* --- the demo: a server of its own in a child -------------------------------------------------------------------- */

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* The child's exit status, once it has ended; -1 when it has not by `deadline`. */
static int child_wait(pid_t child, int64_t deadline)
{
    for (;;) {
        int status;
        pid_t got = waitpid(child, &status, WNOHANG);
        if (got == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        if (got < 0 && errno != EINTR)
            return 1;
        if (belfry_now_ns() >= deadline)
            return -1;
        sleep_ms(10);
    }
}

static int demo(char **paths)
{
    char name[64];
    pid_t parent = getpid();
    snprintf(name, sizeof name, SERVICE "-demo-%d", (int)parent);

    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "deflate: fork: %s\n", strerror(errno));
        return 1;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        exit(getppid() == parent ? serve(name) : 1); /* a parent that died before that would not have been noticed */
    }

    /* The server is there when it can be connected to; if it cannot start, it has said why and ends. */
    belfry_client *client;
    int64_t deadline = belfry_in_ms(START_MS);
    while (belfry_connect(&client, name, NULL) < 0) {
        int status = child_wait(child, 0);
        if (status >= 0)
            return status > 0 ? status : 1;
        if (belfry_now_ns() >= deadline) {
            fprintf(stderr, "deflate: the server did not start in %d s: %s\n", START_MS / 1000, belfry_last_error());
            kill(child, SIGKILL);
            child_wait(child, BELFRY_FOREVER);
            return 1;
        }
        sleep_ms(10);
    }

    int failed = send_paths(client, paths);
    belfry_close(client);

    kill(child, SIGTERM);
    int status = child_wait(child, belfry_in_ms(START_MS));
    if (status < 0) {
        fprintf(stderr, "deflate: the server did not stop in %d s\n", START_MS / 1000);
        kill(child, SIGKILL);
        child_wait(child, BELFRY_FOREVER);
    }
    return failed || status != 0;
}

static int usage(void)
{
    fputs("usage: deflate serve [NAME]\n"
          "       deflate send [NAME] PATH...   (two arguments or more: the first is NAME, if it has no '/' in it)\n"
          "       deflate demo PATH...\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";

    if (strcmp(mode, "serve") == 0 && argc <= 3)
        return serve(argc == 3 ? argv[2] : SERVICE);
    if (strcmp(mode, "send") == 0 && argc >= 3) {
        bool named = argc > 3 && !strchr(argv[2], '/');
        return send_to(named ? argv[2] : SERVICE, argv + (named ? 3 : 2));
    }
    if (strcmp(mode, "demo") == 0 && argc >= 3)
        return demo(argv + 2);
    return usage();
}
