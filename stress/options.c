/* SPDX-License-Identifier: MIT */
/* options.c: see options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORKERS_MAX 65536u
#define DEPTH_MAX 65536u
#define CONNECTIONS_MAX 1048576u
#define SLOTS_MAX 1048576u
#define SHARDS_MAX 64u
#define PROCESSES 100u
#define IDLE_SECONDS 10.0

static const char usage[] =
    "belfry-stress: load for a belfry server, with every reply checked.\n"
    "\n"
    "  Load\n"
    "    --connections N    clients at the same time                               (1000)\n"
    "    --processes N      processes that they are spread over                    (100)\n"
    "    --threads N        threads per process                                    (1)\n"
    "    --seconds S        how long                                               (10)\n"
    "    --depth N          requests in flight per connection       (1; with --rate 16)\n"
    "    --bytes SIZES      64, or 16-4096, or weighted: 64:90,1024-8192:10        (64)\n"
    "    --rate R           open loop: R messages per second in all, at fixed times; latency\n"
    "                       counts from the time a message should have been sent\n"
    "    --churn R          R connections per second in all leave and come back\n"
    "    --idle [S]         afterwards, measure the server with all connections silent (10)\n"
    "    --seed N           for sizes and contents                                 (the clock)\n"
    "    --corrupt-one      spoil one reply: the run must report it and fail\n"
    "\n"
    "  Server\n"
    "    --service NAME     use this running echo server instead of starting one\n"
    "    --root DIR         where services live           ($BELFRY_ROOT, else /dev/shm/belfry-UID)\n"
    "    --shards N         threads of the server                         (2; on one core 1)\n"
    "    --max-slots N      slots of the server                  (enough for the connections)\n"
    "    --warm-pool N      slots kept ready\n"
    "    --ring-bytes N     size of each ring; a power of two\n"
    "    --spin HOW         latency, balanced or power; also for the clients\n"
    "\n"
    "  Report\n"
    "    --json FILE        the results as one JSON object, besides the table\n"
    "    --help             this\n"
    "\n"
    "Exit status: 0 when nothing was lost, corrupt or found late; 1 when something was; 64 for a\n"
    "command line that makes no sense; 69 when this machine cannot run a server.\n";

enum option_code {
    OPT_CONNECTIONS = 256,
    OPT_PROCESSES,
    OPT_THREADS,
    OPT_SECONDS,
    OPT_DEPTH,
    OPT_BYTES,
    OPT_RATE,
    OPT_CHURN,
    OPT_IDLE,
    OPT_SEED,
    OPT_CORRUPT_ONE,
    OPT_SERVICE,
    OPT_ROOT,
    OPT_SHARDS,
    OPT_MAX_SLOTS,
    OPT_WARM_POOL,
    OPT_RING_BYTES,
    OPT_SPIN,
    OPT_JSON,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"processes", required_argument, NULL, OPT_PROCESSES},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"bytes", required_argument, NULL, OPT_BYTES},
    {"rate", required_argument, NULL, OPT_RATE},
    {"churn", required_argument, NULL, OPT_CHURN},
    {"idle", optional_argument, NULL, OPT_IDLE},
    {"seed", required_argument, NULL, OPT_SEED},
    {"corrupt-one", no_argument, NULL, OPT_CORRUPT_ONE},
    {"service", required_argument, NULL, OPT_SERVICE},
    {"root", required_argument, NULL, OPT_ROOT},
    {"shards", required_argument, NULL, OPT_SHARDS},
    {"max-slots", required_argument, NULL, OPT_MAX_SLOTS},
    {"warm-pool", required_argument, NULL, OPT_WARM_POOL},
    {"ring-bytes", required_argument, NULL, OPT_RING_BYTES},
    {"spin", required_argument, NULL, OPT_SPIN},
    {"json", required_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("belfry-stress: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("; --help lists the options\n", stderr);
    va_end(arguments);
    return EXIT_USAGE;
}

static int read_count(const char *name, const char *text, uint64_t low, uint64_t high, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < low || value > high)
        return complain("--%s wants a whole number from %llu to %llu, not '%s'", name, (unsigned long long)low,
                        (unsigned long long)high, text);
    *out = value;
    return -1;
}

static int read_count32(const char *name, const char *text, uint32_t low, uint32_t high, uint32_t *out)
{
    uint64_t value = 0;
    int rc = read_count(name, text, low, high, &value);
    *out = (uint32_t)value;
    return rc;
}

static int read_amount(const char *name, const char *text, double low, double high, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(*out) || *out < low || *out > high)
        return complain("--%s wants a number from %.0f to %.0f, not '%s'", name, low, high, text);
    return -1;
}

static int read_spin(const char *text, enum belfry_spin *out)
{
    if (strcmp(text, "latency") == 0)
        *out = BELFRY_SPIN_LATENCY;
    else if (strcmp(text, "balanced") == 0)
        *out = BELFRY_SPIN_BALANCED;
    else if (strcmp(text, "power") == 0)
        *out = BELFRY_SPIN_POWER;
    else
        return complain("--spin wants latency, balanced or power, not '%s'", text);
    return -1;
}

static int read_sizes(struct options *o, const char *text)
{
    const char *wrong = sizes_parse(&o->sizes, text);
    o->bytes = text;
    return wrong ? complain("--bytes '%s' %s", text, wrong) : -1;
}

static int read_json(struct options *o, const char *path)
{
    if (o->json)
        return complain("--json was given twice");
    o->json = fopen(path, "we");
    return o->json ? -1 : complain("--json cannot write '%s': %s", path, strerror(errno));
}

/* `--idle 5` as well as `--idle=5` and `--idle`: getopt alone would take the 5 for a word of its own. */
static int read_idle(struct options *o, const char *text, int argc, char **argv)
{
    o->idle_seconds = IDLE_SECONDS;
    if (!text && optind < argc && strchr("0123456789.", argv[optind][0]) && argv[optind][0] != '\0')
        text = argv[optind++];
    return text ? read_amount("idle", text, 0, 86400, &o->idle_seconds) : -1;
}

static int read_option(struct options *o, int code, const char *text, int argc, char **argv)
{
    uint32_t pool = 0;
    int rc = -1;
    switch (code) {
    case OPT_CONNECTIONS:
        return read_count32("connections", text, 1, CONNECTIONS_MAX, &o->connections);
    case OPT_PROCESSES:
        return read_count32("processes", text, 1, WORKERS_MAX, &o->processes);
    case OPT_THREADS:
        return read_count32("threads", text, 1, 1024, &o->threads);
    case OPT_SECONDS:
        return read_amount("seconds", text, 0, 604800, &o->seconds);
    case OPT_DEPTH:
        return read_count32("depth", text, 1, DEPTH_MAX, &o->depth);
    case OPT_BYTES:
        return read_sizes(o, text);
    case OPT_RATE:
        return read_amount("rate", text, 1, 1e9, &o->rate);
    case OPT_CHURN:
        return read_amount("churn", text, 0, 1e6, &o->churn);
    case OPT_IDLE:
        return read_idle(o, text, argc, argv);
    case OPT_SEED:
        return read_count("seed", text, 0, UINT64_MAX, &o->seed);
    case OPT_CORRUPT_ONE:
        o->corrupt_one = true;
        return -1;
    case OPT_SERVICE:
        o->service = text;
        return -1;
    case OPT_ROOT:
        o->root = text;
        return -1;
    case OPT_SHARDS:
        return read_count32("shards", text, 1, SHARDS_MAX, &o->shards);
    case OPT_MAX_SLOTS:
        return read_count32("max-slots", text, 1, SLOTS_MAX, &o->max_slots);
    case OPT_WARM_POOL:
        rc = read_count32("warm-pool", text, 0, SLOTS_MAX, &pool);
        o->warm_pool = pool;
        return rc;
    case OPT_RING_BYTES:
        rc = read_count32("ring-bytes", text, 4096, 1u << 30, &o->ring_bytes);
        if (rc < 0 && (o->ring_bytes & (o->ring_bytes - 1)) != 0)
            return complain("--ring-bytes wants a power of two, not '%s'", text);
        return rc;
    case OPT_SPIN:
        return read_spin(text, &o->spin);
    case OPT_JSON:
        return read_json(o, text);
    case OPT_HELP:
        fputs(usage, stdout);
        return 0;
    case ':':
        return complain("'%s' wants a value", argv[optind - 1]);
    default:
        return complain("'%s' is not an option", argv[optind - 1]);
    }
}

/* Spread the connections, and leave room in the server for those that have left but whose slot is not yet free. */
static int complete(struct options *o)
{
    if (o->processes == 0) {
        uint32_t most = o->connections / o->threads;
        o->processes = most < 1 ? 1 : most < PROCESSES ? most : PROCESSES;
    }
    if ((uint64_t)o->processes * o->threads > o->connections)
        return complain("%u connections are too few for %u processes with %u threads each", o->connections,
                        o->processes, o->threads);
    o->workers = o->processes * o->threads;
    if (o->workers > WORKERS_MAX)
        return complain("%u threads in all are more than %u", o->workers, WORKERS_MAX);
    if (o->depth == 0)
        o->depth = o->rate > 0 ? 16 : 1;

    if (o->service && (o->shards || o->max_slots || o->ring_bytes || o->warm_pool >= 0))
        return complain("--shards, --max-slots, --ring-bytes and --warm-pool are for a server that is started here, "
                        "not for --service");
    if (o->shards == 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        o->shards = sched_getaffinity(0, sizeof cores, &cores) < 0 || CPU_COUNT(&cores) > 1 ? 2 : 1;
    }
    if (o->max_slots == 0) {
        uint32_t wanted = (o->connections + o->connections / 8 + 64 + 63) / 64 * 64;
        o->max_slots = wanted < 1024 ? 1024 : wanted < SLOTS_MAX ? wanted : SLOTS_MAX;
    }
    return -1;
}

int options_parse(struct options *o, int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *o = (struct options){
        .connections = 1000,
        .threads = 1,
        .seconds = 10,
        .warm_pool = -1,
        .seed = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
    };
    int rc = read_sizes(o, "64");
    opterr = 0;
    for (int code; rc < 0 && (code = getopt_long(argc, argv, ":", long_options, NULL)) != -1;)
        rc = read_option(o, code, optarg, argc, argv);
    if (rc < 0 && optind < argc)
        rc = complain("'%s' is one word too many", argv[optind]);
    return rc < 0 ? complete(o) : rc;
}
