/* SPDX-License-Identifier: MIT */
/* Tests of base/error.c: every code has a sentence, and a thread has its own last one. */
#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>

#include "base/check.h"
#include "expect.h"
#include "fixture.h"

#define FIRST BELFRY_ENOSERVICE
#define LAST BELFRY_EQUOTA

Test(error, has_a_sentence_of_its_own_for_every_code)
{
    for (int rc = FIRST; rc >= LAST; rc--) {
        const char *text = belfry_error_text(rc);
        expect(strlen(text) > 10);
        expect(strcmp(text, "no such code") != 0);
        for (int other = FIRST; other > rc; other--)
            expect(strcmp(text, belfry_error_text(other)) != 0);
    }
    expect_text(belfry_error_text(LAST - 1),
                "no such code"); /* a new code needs a sentence, and this test its number */
}

Test(error, has_words_for_whatever_it_is_given)
{
    expect_text(belfry_error_text(0), "success");
    expect_text(belfry_error_text(17), "success");
    expect_text(belfry_error_text(-ENOENT), "No such file or directory");
    expect_text(belfry_error_text(-ETIMEDOUT), "the deadline has passed");
    expect_text(belfry_error_text(-4095), "unknown system error");
    expect_text(belfry_error_text(-4096), "unknown system error");
    expect_text(belfry_error_text(BELFRY_EUSER), "the handler's own failure");
    expect_text(belfry_error_text(INT32_MIN), "the handler's own failure");
    expect_text(belfry_error_text(BELFRY_EUSER + 1), "no such code");
}

Test(error, has_words_of_their_own_for_every_end)
{
    for (int end = 0; end < BELFRY_END_COUNT; end++) {
        expect(strlen(belfry_end_text((enum belfry_end)end)) > 5);
        expect(strcmp(belfry_end_text((enum belfry_end)end), "no such reason") != 0);
        for (int other = 0; other < end; other++)
            expect(strcmp(belfry_end_text((enum belfry_end)end), belfry_end_text((enum belfry_end)other)) != 0);
    }
    expect_text(belfry_end_text(BELFRY_END_COUNT), "no such reason");
    expect_text(belfry_end_text((enum belfry_end)77), "no such reason");
}

Test(error, keeps_the_last_sentence)
{
    expect_text(belfry_last_error(), "");
    expect_eq(bf_error(BELFRY_EFULL, "all %d are %s", 7, "taken"), BELFRY_EFULL);
    expect_text(belfry_last_error(), "all 7 are taken");
    bf_error_append("; %s", "wait");
    expect_text(belfry_last_error(), "all 7 are taken; wait");
    expect_eq(bf_error_errno(-EXDEV, "cannot make %s", "it"), -EXDEV);
    expect_text(belfry_last_error(), "cannot make it: Invalid cross-device link");
}

Test(error, cuts_what_does_not_fit)
{
    char name[2000];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    bf_error(-EIO, "%s", name);
    size_t length = strlen(belfry_last_error());
    expect(length > 100 && length < sizeof name);
    for (int i = 0; i < 10; i++)
        bf_error_append("%s", name);
    expect_eq(strlen(belfry_last_error()), length);
    bf_error_errno(-EIO, "%s", name);
    expect_eq(strlen(belfry_last_error()), length);
}

static void *fail_elsewhere(void *argument)
{
    (void)argument;
    bool empty = belfry_last_error()[0] == '\0';
    bf_error(-EIO, "elsewhere");
    return empty ? NULL : (void *)1;
}

Test(error, belongs_to_its_thread)
{
    pthread_t thread;
    void *found;
    bf_error(-EIO, "here");
    pthread_create(&thread, NULL, fail_elsewhere, NULL);
    pthread_join(thread, &found);
    expect(found == NULL);
    expect_text(belfry_last_error(), "here");
}

static void break_invariant(void *context)
{
    (void)context;
    int one = 1;
    INVARIANT(one == 1);
    INVARIANT(one == 2);
}

Test(error, ends_the_process_when_an_invariant_does_not_hold)
{
    int status = fixture_reap(fixture_child(break_invariant, NULL));
    expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
