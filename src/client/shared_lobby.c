/* SPDX-License-Identifier: MIT */
/*
 * shared_lobby.c: one map of an instance's lobby per process, however many connections it has.
 *
 * Every message looks at words of the lobby. With a map per connection, a thousand connections would look at the same
 * few lines through a thousand addresses, which costs a page-table walk each time (docs/decisions/0009); and each
 * connection would take a descriptor and a memory area more.
 *
 * Any thread: the list has a mutex. Who attaches owns one reference. After a fork the child forgets the list: its
 * connections are not the parent's.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/os.h"
#include "client/client.h"
#include "shm/place.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct client_lobby *list;

/* The lobby file that stands in this directory now. */
static int identify(int instance_dir, struct bf_os_file *file)
{
    return bf_os_stat_at(instance_dir, PLACE_LOBBY, file);
}

static struct client_lobby *find(const struct bf_os_file *file, bool atfork)
{
    for (struct client_lobby *l = list; l != NULL; l = l->next)
        if (l->inode == file->inode && l->device == file->device && l->atfork == atfork)
            return l;
    return NULL;
}

static int attach_new(struct client_lobby **out, int instance_dir, bool atfork)
{
    struct bf_os_file file;
    struct client_lobby *l = calloc(1, sizeof *l);
    if (l == NULL)
        return bf_error(-ENOMEM, "no memory for a connection");
    int rc = bf_lobby_attach(&l->lobby, instance_dir);
    if (rc == 0 && (rc = bf_os_stat(l->lobby.fd, &file)) < 0)
        bf_lobby_detach(&l->lobby);
    if (rc < 0) {
        free(l);
        return rc;
    }
    if (atfork)
        bf_os_no_fork(l->lobby.map, l->lobby.bytes);
    l->device = file.device;
    l->inode = file.inode;
    l->atfork = atfork;
    l->next = list;
    list = l;
    *out = l;
    return 0;
}

int bf_client_lobby_attach(struct client_lobby **out, int instance_dir, bool atfork)
{
    struct bf_os_file file;
    int rc = 0;
    pthread_mutex_lock(&mutex);
    *out = identify(instance_dir, &file) == 0 ? find(&file, atfork) : NULL;
    if (*out == NULL)
        rc = attach_new(out, instance_dir, atfork);
    if (rc == 0)
        (*out)->references++;
    pthread_mutex_unlock(&mutex);
    return rc;
}

void bf_client_lobby_detach(struct client_lobby *lobby)
{
    pthread_mutex_lock(&mutex);
    if (--lobby->references == 0) {
        struct client_lobby **at = &list;
        while (*at != lobby)
            at = &(*at)->next;
        *at = lobby->next;
        bf_lobby_detach(&lobby->lobby);
        free(lobby);
    }
    pthread_mutex_unlock(&mutex);
}

void bf_client_lobby_before_fork(void)
{
    pthread_mutex_lock(&mutex);
}

void bf_client_lobby_after_fork(bool child)
{
    struct client_lobby **at = &list;
    while (child && *at != NULL) {
        struct client_lobby *l = *at;
        if (l->atfork) { /* it must not look like a connection of ours, nor keep a dead server's lobby in memory */
            bf_os_close(l->lobby.fd);
            l->lobby.fd = -1;
            *at = l->next;
        } else {
            at = &l->next;
        }
    }
    pthread_mutex_unlock(&mutex);
}
