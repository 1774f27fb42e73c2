/* SPDX-License-Identifier: MIT */
/* load.c: see load.h. */
#include "load.h"

#include "progress.h"
#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- in a client process --------------------------------------------------------------------------------------- */

static void *worker_thread(void *job)
{
    worker_run(job);
    return NULL;
}

/* The first worker runs on the process's own thread, so that one thread per process is one thread. */
static int process_run(const struct load *l, uint32_t index)
{
    uint32_t threads = l->options->threads;
    struct worker_job *job = calloc(threads, sizeof *job);
    pthread_t *thread = calloc(threads, sizeof *thread);
    uint32_t made = 1;
    if (!job || !thread) {
        free(job), free(thread);
        return EXIT_FAILURE;
    }
    for (uint32_t t = 0; t < threads; t++) {
        job[t] = (struct worker_job){.options = l->options,
                                     .board = l->board,
                                     .service = l->service,
                                     .index = index * threads + t};
    }
    while (made < threads && pthread_create(&thread[made], NULL, worker_thread, &job[made]) == 0)
        made++;
    if (made == threads)
        worker_run(&job[0]);
    else
        fprintf(stderr, "belfry-stress: process %u cannot start thread %u of %u\n", index, made + 1, threads);
    if (made < threads)
        exit(EXIT_FAILURE); /* the threads that did start end with us; the main process sees a crash */
    for (uint32_t t = 1; t < made; t++)
        pthread_join(thread[t], NULL);
    free(job), free(thread);
    return EXIT_SUCCESS;
}

static void process_main(const struct load *l, uint32_t index, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILURE);
    signal(SIGINT, SIG_IGN); /* a terminal sends it to us too, but it is the main process that ends the run */
    signal(SIGTERM, SIG_DFL);
    exit(process_run(l, index));
}

/* ---- in the main process --------------------------------------------------------------------------------------- */

int load_start(struct load *l, const struct options *o, struct board_shared *b, const char *service)
{
    pid_t parent = getpid();
    *l = (struct load){.options = o, .board = b, .service = service};
    l->process = calloc(o->processes, sizeof *l->process);
    if (!l->process)
        return -ENOMEM;
    fflush(NULL);
    for (uint32_t i = 0; i < o->processes; i++) {
        pid_t pid = fork();
        if (pid == 0)
            process_main(l, i, parent);
        if (pid < 0) {
            int error = errno;
            fprintf(stderr, "belfry-stress: cannot start process %u of %u: %s\n", i + 1, o->processes, strerror(error));
            return -error;
        }
        l->process[l->started++].pid = pid;
    }
    return 0;
}

static void process_ended(struct load *l, struct load_process *p, int status)
{
    p->exited = true;
    p->status = status;
    l->exited++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    l->crashed++;
    progress_clear();
    fprintf(stderr, "belfry-stress: client process %d ended with %s %d; what it had on its way is lost\n", (int)p->pid,
            WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* Each by its own pid: waiting for any child would also reap the server, which is not ours to reap. */
void load_reap(struct load *l)
{
    for (uint32_t i = 0; i < l->started; i++) {
        struct load_process *p = &l->process[i];
        int status;
        if (!p->exited && waitpid(p->pid, &status, WNOHANG) == p->pid)
            process_ended(l, p, status);
    }
}

bool load_reached(const struct load *l, enum stage stage)
{
    for (uint32_t i = 0; i < l->started * l->options->threads; i++) {
        uint32_t now = atomic_load_explicit(&l->board->worker[i].stage, memory_order_acquire);
        if (now < (uint32_t)stage && !l->process[i / l->options->threads].exited)
            return false;
    }
    return true;
}

void load_stop(struct load *l, int seconds)
{
    for (int ms = 0; l->process && (load_reap(l), l->exited < l->started); ms += 5) {
        for (uint32_t i = 0; ms == seconds * 1000 && i < l->started; i++)
            if (!l->process[i].exited)
                kill(l->process[i].pid, SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    free(l->process);
    l->process = NULL;
}
