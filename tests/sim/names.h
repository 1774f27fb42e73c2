/* SPDX-License-Identifier: MIT */
/*
 * names.h: what the library asks of libc's heap and threads, by other names: see libc.c. Included before each of its
 * sources, by the compiler.
 */
#ifndef BF_TESTS_SIM_NAMES_H
#define BF_TESTS_SIM_NAMES_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

void *sim_malloc(size_t bytes);
void *sim_calloc(size_t count, size_t bytes);
void *sim_realloc(void *block, size_t bytes);
void *sim_aligned_alloc(size_t alignment, size_t bytes);
int sim_posix_memalign(void **out, size_t alignment, size_t bytes);
void sim_free(void *block);
void sim_abort(void) __attribute__((noreturn));
void *sim_memcpy(void *to, const void *from, size_t bytes);
void *sim_memset(void *at, int value, size_t bytes);

int sim_pthread_create(pthread_t *out, const pthread_attr_t *attributes, void *(*body)(void *), void *argument);
int sim_pthread_join(pthread_t thread, void **result);
pthread_t sim_pthread_self(void);
int sim_pthread_once(pthread_once_t *once, void (*body)(void));
int sim_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int sim_pthread_mutexattr_init(pthread_mutexattr_t *attributes);
int sim_pthread_mutexattr_destroy(pthread_mutexattr_t *attributes);
int sim_pthread_mutexattr_setpshared(pthread_mutexattr_t *attributes, int shared);
int sim_pthread_mutexattr_setrobust(pthread_mutexattr_t *attributes, int robust);
int sim_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
int sim_pthread_mutex_destroy(pthread_mutex_t *mutex);
int sim_pthread_mutex_lock(pthread_mutex_t *mutex);
int sim_pthread_mutex_unlock(pthread_mutex_t *mutex);
int sim_pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes);
int sim_pthread_cond_destroy(pthread_cond_t *condition);
int sim_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int sim_pthread_cond_broadcast(pthread_cond_t *condition);
int sim_pthread_key_create(pthread_key_t *key, void (*ends)(void *));
int sim_pthread_setspecific(pthread_key_t key, const void *value);

#ifdef BF_TESTS_SIM_RENAME
#define malloc sim_malloc
#define calloc sim_calloc
#define realloc sim_realloc
#define aligned_alloc sim_aligned_alloc
#define posix_memalign sim_posix_memalign
#define free sim_free
#define abort sim_abort
#define memcpy sim_memcpy
#define memset sim_memset
#define pthread_create sim_pthread_create
#define pthread_join sim_pthread_join
#define pthread_self sim_pthread_self
#define pthread_once sim_pthread_once
#define pthread_atfork sim_pthread_atfork
#define pthread_mutexattr_init sim_pthread_mutexattr_init
#define pthread_mutexattr_destroy sim_pthread_mutexattr_destroy
#define pthread_mutexattr_setpshared sim_pthread_mutexattr_setpshared
#define pthread_mutexattr_setrobust sim_pthread_mutexattr_setrobust
#define pthread_mutex_init sim_pthread_mutex_init
#define pthread_mutex_destroy sim_pthread_mutex_destroy
#define pthread_mutex_lock sim_pthread_mutex_lock
#define pthread_mutex_unlock sim_pthread_mutex_unlock
#define pthread_cond_init sim_pthread_cond_init
#define pthread_cond_destroy sim_pthread_cond_destroy
#define pthread_cond_wait sim_pthread_cond_wait
#define pthread_cond_broadcast sim_pthread_cond_broadcast
#define pthread_key_create sim_pthread_key_create
#define pthread_setspecific sim_pthread_setspecific

/* Variables of a thread and of a process: machine.c keeps one set for each of them. */
#define _Thread_local __attribute__((section("sim_thread")))
#endif

#endif
