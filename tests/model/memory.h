/* SPDX-License-Identifier: MIT */
/*
 * memory.h: the memory that the agents of a model share, and when one sees what another stored.
 *
 * A model defines WORDS, AGENTS and READS(word, agent), then includes this, and writes MEMORY behind its last agent. An agent
 * is an active proctype; the first is agent 0. All words begin as 0. Loads and stores are spelled as in base/order.h,
 * with the place for what is read as the last argument. There are two memories:
 *
 * TSO      x86. A store goes into its agent's buffer, and from there to memory in its order, at any time. A load
 *          finds the agent's own last store, else memory. A fence waits until the buffer is empty.
 *
 * WEAK     C's own model, without loads that see stores of their own future. A word is the list of what was stored
 *          to it, and an agent has a view: how far along each list it has come. A load takes anything from there on,
 *          which need not be the newest. A store with release carries its agent's view, and a load with acquire that takes
 *          it joins it to its own. A full fence joins the views of all full fences before it, makes up for every acquire
 *          that loads before it lacked, and for every release that stores after it lack.
 *
 * A system call that looks at a futex's word begins with a full fence, as the kernel does.
 *
 * A word has one writer, as everywhere in belfry. What all that may read it have left behind is forgotten, so
 * that a model of a loop is finite. If a word has more stores than fit into MESSAGES, `cut` is set and the writer goes no
 * further: a run that proves anything must not have done so, and prove sees to that.
 */
bool cut;
hidden byte i_, j_, k_, w_;

#ifdef TSO

#ifndef DEPTH
#define DEPTH 4
#endif
byte memory[WORDS];
byte pending[AGENTS];
byte pending_word[AGENTS * DEPTH];
byte pending_value[AGENTS * DEPTH];
#define PENDING(a, n) ((a) * DEPTH + (n))

#define load_relaxed(w, x)                                                              \
    d_step {                                                                            \
        x = memory[w];                                                                  \
        i_ = 0;                                                                         \
        do                                                                              \
        :: i_ < pending[_pid] ->                                                        \
            if                                                                          \
            :: pending_word[PENDING(_pid, i_)] == w -> x = pending_value[PENDING(_pid, i_)] \
            :: else                                                                     \
            fi;                                                                         \
            i_++                                                                        \
        :: else -> break                                                                \
        od                                                                              \
    }
#define load_acquire(w, x) load_relaxed(w, x)
#define store_relaxed(w, v)                                                             \
    d_step {                                                                            \
        pending[_pid] < DEPTH;                                                          \
        pending_word[PENDING(_pid, pending[_pid])] = w;                                 \
        pending_value[PENDING(_pid, pending[_pid])] = v;                                \
        pending[_pid]++                                                                 \
    }
#define store_release(w, v) store_relaxed(w, v)
#define full_fence() pending[_pid] == 0
/* If the word is `expected` make it `v`; x becomes what it was. One step, and a full fence. */
#define replace(w, expected, v, x)                                                      \
    d_step {                                                                            \
        pending[_pid] == 0;                                                             \
        x = memory[w];                                                                  \
        memory[w] = ((expected) == x -> (v) : x)                                        \
    }
#define replace_release(w, expected, v, x) replace(w, expected, v, x)
#define exchange_acquire(w, v, x) replace(w, x, v, x)
/* Is there something newer than the agent has seen? For a loop that polls; it has seen `x`. */
#define is_newer(w, x) (memory[w] != x)
/* A load that may be late: of this machine, none is. */
byte late_value[AGENTS];
#define load_late(w) load_relaxed(w, late_value[_pid])
#define loads_what_is_late() skip

/* The oldest store of agent `a` reaches memory. */
#define FLUSH(a)                                                                        \
    d_step {                                                                            \
        pending[a] > 0;                                                                 \
        memory[pending_word[PENDING(a, 0)]] = pending_value[PENDING(a, 0)];             \
        i_ = 1;                                                                         \
        do                                                                              \
        :: i_ < pending[a] ->                                                           \
            pending_word[PENDING(a, i_ - 1)] = pending_word[PENDING(a, i_)];            \
            pending_value[PENDING(a, i_ - 1)] = pending_value[PENDING(a, i_)];          \
            i_++                                                                        \
        :: else -> break                                                                \
        od;                                                                             \
        pending[a]--;                                                                   \
        pending_word[PENDING(a, pending[a])] = 0;                                       \
        pending_value[PENDING(a, pending[a])] = 0                                       \
    }

#define MEMORY                                                                          \
    active proctype buffers()                                                           \
    {                                                                                   \
        do                                                                              \
        :: FLUSH(0)                                                                     \
        :: FLUSH(1)                                                                     \
        FLUSH_MORE                                                                      \
        od                                                                              \
    }
#if AGENTS > 3
#define FLUSH_MORE :: FLUSH(2) :: FLUSH(3)
#elif AGENTS > 2
#define FLUSH_MORE :: FLUSH(2)
#else
#define FLUSH_MORE
#endif

#else /* WEAK */

#ifndef MESSAGES
#define MESSAGES 6
#endif
typedef view {
    byte at[WORDS]
}
byte newest[WORDS];
byte said[WORDS * MESSAGES];
view carried[WORDS * MESSAGES];
view now[AGENTS];   /* what the agent has seen */
view owed[AGENTS];  /* ... and what its next fence will make it see */
view given[AGENTS]; /* what its relaxed stores carry: its view at its last fence */
view agreed;        /* of all fences */
byte chosen;        /* what a load takes; not hidden, so that the search can come back to the choice */
#define MESSAGE(w, n) ((w) * MESSAGES + (n))
#define JOIN(to, from) to = (to < (from) -> (from) : to)
#define LESS(x) x = ((x) > k_ -> (x) - k_ : 0)
#define EACH(i, count, step)                                                                \
    i = 0;                                                                                  \
    do                                                                                      \
    :: i < (count) ->                                                                       \
        step;                                                                               \
        i++                                                                                 \
    :: else -> break                                                                        \
    od

/* Forget the `k_` oldest values of word `w_`: all that may read it have left them behind. */
#define SHIFT_MESSAGE                                                                       \
    if                                                                                      \
    :: j_ + k_ <= newest[w_] ->                                                             \
        said[MESSAGE(w_, j_)] = said[MESSAGE(w_, j_ + k_)];                                 \
        EACH(i_, WORDS, carried[MESSAGE(w_, j_)].at[i_] = carried[MESSAGE(w_, j_ + k_)].at[i_]) \
    :: else ->                                                                              \
        said[MESSAGE(w_, j_)] = 0;                                                          \
        EACH(i_, WORDS, carried[MESSAGE(w_, j_)].at[i_] = 0)                                \
    fi
#define FORGET                                                                              \
    k_ = newest[w_];                                                                        \
    EACH(i_, AGENTS, k_ = (READS(w_, i_) && now[i_].at[w_] < k_ -> now[i_].at[w_] : k_));   \
    if                                                                                      \
    :: k_ > 0 ->                                                                            \
        EACH(j_, newest[w_] + 1, SHIFT_MESSAGE);                                            \
        newest[w_] = newest[w_] - k_;                                                       \
        EACH(i_, AGENTS, LESS(now[i_].at[w_]); LESS(owed[i_].at[w_]); LESS(given[i_].at[w_])); \
        LESS(agreed.at[w_]);                                                                \
        EACH(i_, WORDS * MESSAGES, LESS(carried[i_].at[w_]))                                \
    :: else                                                                                 \
    fi
#define FORGET_ALL EACH(w_, WORDS, FORGET); w_ = 0; i_ = 0; j_ = 0; k_ = 0

/* Take any of the word's values, from the one seen last to the newest. */
#define LOAD(w, x, join)                                                                    \
    atomic {                                                                                \
        chosen = now[_pid].at[w];                                                           \
        do                                                                                  \
        :: chosen < newest[w] -> chosen++                                                   \
        :: break                                                                            \
        od;                                                                                 \
        skip;                                                                               \
        d_step {                                                                            \
            i_ = chosen;                                                                    \
            chosen = 0;                                                                     \
            x = said[MESSAGE(w, i_)];                                                       \
            JOIN(now[_pid].at[w], i_);                                                      \
            JOIN(owed[_pid].at[w], i_);                                                     \
            EACH(j_, WORDS, JOIN(owed[_pid].at[j_], carried[MESSAGE(w, i_)].at[j_]); join); \
            FORGET_ALL                                                                      \
        }                                                                                   \
    }
#define load_relaxed(w, x) LOAD(w, x, skip)

/* A load whose value is not yet needed may be late, but no later than the next store with release, or fence. */
#ifdef LATE_LOADS
byte late[AGENTS]; /* the word + 1 */
byte late_value[AGENTS];
#define load_late(w)                                                                        \
    if                                                                                      \
    :: late[_pid] = (w) + 1                                                                 \
    :: load_relaxed(w, late_value[_pid])                                                    \
    fi
#define loads_what_is_late()                                                                \
    atomic {                                                                                \
        if                                                                                  \
        :: late[_pid] > 0 -> load_relaxed(late[_pid] - 1, late_value[_pid]); late[_pid] = 0 \
        :: else                                                                             \
        fi                                                                                  \
    }
#else
#define loads_what_is_late() skip
#endif
#define load_acquire(w, x) LOAD(w, x, JOIN(now[_pid].at[j_], carried[MESSAGE(w, i_)].at[j_]))

#ifdef WHOLE
#define TOO_MANY assert(!cut)
#else
#define TOO_MANY skip
#endif
#define STORE(w, v, seen)                                                                   \
    atomic {                                                                                \
        if                                                                                  \
        :: newest[w] + 1 < MESSAGES                                                         \
        :: else -> cut = true; TOO_MANY; false                                              \
        fi;                                                                                 \
        skip;                                                                               \
        d_step {                                                                            \
            newest[w]++;                                                                    \
            k_ = newest[w];                                                                 \
            said[MESSAGE(w, k_)] = v;                                                       \
            EACH(j_, WORDS, carried[MESSAGE(w, k_)].at[j_] = seen);                         \
            carried[MESSAGE(w, k_)].at[w] = 0;                                              \
            now[_pid].at[w] = k_;                                                           \
            owed[_pid].at[w] = k_;                                                          \
            FORGET_ALL                                                                      \
        }                                                                                   \
    }
#define store_relaxed(w, v) STORE(w, v, given[_pid].at[j_])
#define store_release(w, v) loads_what_is_late(); STORE(w, v, now[_pid].at[j_])
#define full_fence()                                                                        \
    d_step {                                                                                \
        EACH(j_, WORDS, JOIN(owed[_pid].at[j_], agreed.at[j_]);                             \
             now[_pid].at[j_] = owed[_pid].at[j_];                                          \
             given[_pid].at[j_] = owed[_pid].at[j_];                                        \
             agreed.at[j_] = owed[_pid].at[j_]);                                            \
        FORGET_ALL                                                                          \
    }
#define is_newer(w, x) (newest[w] > now[_pid].at[w])

/* A read-modify-write finds the newest value, and what it stores carries what that carried. */
#define MODIFY(w, expected, v, x, join, seen)                                               \
    atomic {                                                                                \
        if                                                                                  \
        :: newest[w] + 1 < MESSAGES                                                         \
        :: else -> cut = true; TOO_MANY; false                                              \
        fi;                                                                                 \
        skip;                                                                               \
        d_step {                                                                            \
            i_ = newest[w];                                                                 \
            x = said[MESSAGE(w, i_)];                                                       \
            EACH(j_, WORDS, JOIN(owed[_pid].at[j_], carried[MESSAGE(w, i_)].at[j_]); join); \
            k_ = i_ + ((expected) == x -> 1 : 0);                                           \
            newest[w] = k_;                                                                 \
            now[_pid].at[w] = k_;                                                           \
            JOIN(owed[_pid].at[w], k_);                                                     \
            if                                                                              \
            :: k_ > i_ ->                                                                   \
                said[MESSAGE(w, k_)] = v;                                                   \
                EACH(j_, WORDS, carried[MESSAGE(w, k_)].at[j_] = carried[MESSAGE(w, i_)].at[j_]; \
                     JOIN(carried[MESSAGE(w, k_)].at[j_], seen));                           \
                carried[MESSAGE(w, k_)].at[w] = 0                                           \
            :: else                                                                         \
            fi;                                                                             \
            FORGET_ALL                                                                      \
        }                                                                                   \
    }
#define replace(w, expected, v, x) \
    MODIFY(w, expected, v, x, JOIN(now[_pid].at[j_], carried[MESSAGE(w, i_)].at[j_]), now[_pid].at[j_])
#define replace_release(w, expected, v, x) MODIFY(w, expected, v, x, skip, now[_pid].at[j_])
#define replace_relaxed(w, expected, v, x) MODIFY(w, expected, v, x, skip, given[_pid].at[j_])
#define exchange_acquire(w, v, x) \
    MODIFY(w, x, v, x, JOIN(now[_pid].at[j_], carried[MESSAGE(w, i_)].at[j_]), given[_pid].at[j_])
#define exchange_relaxed(w, v, x) MODIFY(w, x, v, x, skip, given[_pid].at[j_])
#define MEMORY

#endif
