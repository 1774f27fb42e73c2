/* SPDX-License-Identifier: MIT */
/*
 * files.c: a tmpfs: directories, links, locks, watches, and what is mapped. The functions of os.h that are about them.
 *
 * What stands in files is real memory, in one file of the real kernel's, so that a map is a real map: who writes to one that
 * is read-only, or touches one that he has given back, faults. Everything else is lists.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/os.h"
#include "sim.h"

#define NODES 512u
#define ENTRIES 256u
#define FILES 192u
#define WATCHES 24u
#define INOTIFIES 8u
#define NAME_BYTES 64u
#define NODE_BYTES (256ull << 10) /* a file is no larger */
#define PAGE ((size_t)4096)
#define UID 1000u
#define DEVICE 42u

enum node_kind { NODE_NONE, NODE_FILE, NODE_DIRECTORY, NODE_LINK };

struct sim_node {
    enum node_kind kind;
    uint32_t mode;
    uint32_t links;
    uint32_t users; /* open files and maps */
    uint64_t bytes;
    struct sim_file *locked_by;
    const struct sim_node *parent; /* where it stood last */
    char name[NAME_BYTES];
    char target[32];
};

struct entry {
    struct sim_node *directory; /* NULL: free */
    struct sim_node *node;
    uint64_t order; /* of their making */
};

struct sim_file {
    struct sim_node *node; /* NULL: free */
    bool writable;
    bool passes_only;
    bool told; /* that it is being closed */
    struct sim_inotify *inotify;
    unsigned position;
};

struct watch {
    struct sim_inotify *inotify; /* NULL: free */
    struct sim_node *node;
    int32_t number;
    uint32_t mask;
};

static struct sim_node nodes[NODES];
static unsigned node_count;
static struct entry entries[ENTRIES];
static uint64_t entries_made;
static struct sim_file files[FILES];
static struct watch watches[WATCHES];
static struct sim_inotify inotifies[INOTIFIES];
static struct sim_node *root;
static int memory_fd = -1;
static uint64_t pages_used;

/* --- nodes and names ------------------------------------------------------------------------------------------------- */

static uint8_t *content(const struct sim_node *n)
{
    return (uint8_t *)(uintptr_t)(SIM_FILES_AT + (uint64_t)(n - nodes) * NODE_BYTES);
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE;
}

static void forget_if_unused(struct sim_node *n)
{
    if (n->links > 0 || n->users > 0 || n->kind != NODE_FILE)
        return;
    pages_used -= pages_of(n->bytes);
    n->bytes = 0;
}

static struct sim_node *new_node(enum node_kind kind, uint32_t mode)
{
    if (node_count == NODES)
        sim_fail("too many files were made");
    struct sim_node *n = &nodes[node_count++];
    *n = (struct sim_node){.kind = kind, .mode = mode, .links = 1};
    return n;
}

static struct entry *find(const struct sim_node *directory, const char *name)
{
    for (unsigned i = 0; i < ENTRIES; i++)
        if (entries[i].directory == directory && strcmp(entries[i].node->name, name) == 0)
            return &entries[i];
    return NULL;
}

static int grow(struct sim_node *n, uint64_t bytes)
{
    if (bytes > NODE_BYTES)
        sim_fail("a file of %llu bytes", (unsigned long long)bytes);
    uint64_t more = pages_of(bytes) - pages_of(n->bytes);
    if (bytes <= n->bytes)
        return 0;
    if (pages_used + more > sim.machine.pages_max)
        return -ENOSPC;
    memset(content(n) + n->bytes, 0, pages_of(bytes) * PAGE - n->bytes);
    pages_used += more;
    n->bytes = bytes;
    return 0;
}

static void put(struct sim_node *directory, const char *name, struct sim_node *n)
{
    for (unsigned i = 0; i < ENTRIES; i++)
        if (entries[i].directory == NULL) {
            entries[i] = (struct entry){directory, n, ++entries_made};
            n->parent = directory;
            snprintf(n->name, sizeof n->name, "%s", name);
            return;
        }
    sim_fail("there are too many names");
}

uint64_t sim_pages_used(void)
{
    return pages_used;
}

/* --- descriptors ----------------------------------------------------------------------------------------------------- */

static struct sim_file *file_of(int fd)
{
    struct sim_file *f = fd >= 0 && (unsigned)fd < SIM_DESCRIPTORS ? sim_self()->files[fd] : NULL;
    if (f == NULL)
        sim_fail("process %s uses descriptor %d, which is not open", sim_self()->name, fd);
    return f;
}

static int new_descriptor(struct sim_node *n, bool writable, struct sim_inotify *inotify)
{
    struct sim_process *p = sim_self();
    unsigned fd = 3;
    while (fd < SIM_DESCRIPTORS && p->files[fd] != NULL)
        fd++;
    for (unsigned i = 0; i < FILES && fd < SIM_DESCRIPTORS; i++)
        if (files[i].node == NULL) {
            files[i] = (struct sim_file){.node = n, .writable = writable, .inotify = inotify};
            n->users++;
            p->files[fd] = &files[i];
            return (int)fd;
        }
    return -EMFILE;
}

static struct sim_node *directory_of(int dir)
{
    return dir == BF_OS_CWD ? root : file_of(dir)->node;
}

/* The directory that `path` leads into, and its last name. 0 or -errno. */
static int walk(int dir, const char *path, struct sim_node **directory, char name[NAME_BYTES])
{
    struct sim_node *at = directory_of(dir);
    while (*path == '/')
        path++;
    for (;;) {
        size_t length = strcspn(path, "/");
        if (length >= NAME_BYTES)
            return -ENAMETOOLONG;
        memcpy(name, path, length);
        name[length] = '\0';
        if (at->kind != NODE_DIRECTORY)
            return -ENOTDIR;
        path += length;
        if (*path == '\0') {
            *directory = at;
            return 0;
        }
        path++;
        const struct entry *e = find(at, name);
        if (e == NULL)
            return -ENOENT;
        at = e->node;
    }
}

static int find_node(int dir, const char *path, struct sim_node **out)
{
    struct sim_node *directory;
    char name[NAME_BYTES];
    int rc = walk(dir, path, &directory, name);
    if (rc < 0)
        return rc;
    if (strcmp(name, ".") == 0 || name[0] == '\0') {
        *out = directory;
        return 0;
    }
    const struct entry *e = find(directory, name);
    if (e == NULL)
        return -ENOENT;
    *out = e->node;
    return 0;
}

/* --- inotify --------------------------------------------------------------------------------------------------------- */

static bool same(const struct sim_record *a, const struct sim_record *b)
{
    return a->watch == b->watch && a->mask == b->mask && strcmp(a->name, b->name) == 0;
}

static void add_record(struct sim_inotify *i, const struct sim_record *record)
{
    unsigned max = sizeof i->records / sizeof *i->records;
    const struct sim_record *last = &i->records[(i->first + i->count + max - 1) % max];
    if (i->count > 0 && same(last, record))
        return;
    if (i->count >= sim.machine.records_max || i->count + 1 >= max) {
        if (i->overflowed)
            return;
        sim.overflows++;
        i->overflowed = true;
        i->records[(i->first + i->count++) % max] = (struct sim_record){.watch = -1, .mask = IN_Q_OVERFLOW};
    } else {
        i->records[(i->first + i->count++) % max] = *record;
    }
    if (i->reader != NULL)
        sim_reactor_records(i->reader);
}

static void tell(const struct sim_node *n, uint32_t mask, const char *name)
{
    for (unsigned i = 0; i < WATCHES; i++) {
        const struct watch *w = &watches[i];
        if (w->inotify == NULL || w->node != n || (w->mask & mask) == 0)
            continue;
        struct sim_record record = {.watch = w->number, .mask = mask};
        snprintf(record.name, sizeof record.name, "%.39s", name);
        add_record(w->inotify, &record);
    }
}

bool sim_inotify_take(struct sim_inotify *i, struct sim_record *record)
{
    unsigned max = sizeof i->records / sizeof *i->records;
    if (i->count == 0)
        return false;
    *record = i->records[i->first];
    i->first = (i->first + 1) % max;
    i->count--;
    if (record->mask == IN_Q_OVERFLOW)
        i->overflowed = false;
    return true;
}

struct sim_inotify *sim_inotify_of(int fd)
{
    return file_of(fd)->inotify;
}

int bf_os_inotify(void)
{
    sim_stores_seen(sim.current);
    sim_step();
    if (sim_fails("inotify"))
        return -EMFILE;
    for (unsigned i = 0; i < INOTIFIES; i++) {
        bool used = false;
        for (unsigned f = 0; f < FILES; f++)
            used |= files[f].node != NULL && files[f].inotify == &inotifies[i];
        if (used)
            continue;
        inotifies[i] = (struct sim_inotify){.watches = 1};
        return new_descriptor(new_node(NODE_NONE, 0), false, &inotifies[i]);
    }
    return -EMFILE;
}

int bf_os_inotify_add(int fd, const char *path, uint32_t mask)
{
    struct sim_node *n;
    sim_stores_seen(sim.current);
    sim_step();
    if (sim_fails("watch"))
        return -ENOSPC;
    int rc = find_node(BF_OS_CWD, path, &n);
    for (unsigned i = 0; rc == 0 && i < WATCHES; i++)
        if (watches[i].inotify == NULL) {
            struct sim_inotify *inotify = file_of(fd)->inotify;
            watches[i] = (struct watch){inotify, n, inotify->watches++, mask};
            return watches[i].number;
        }
    return rc < 0 ? rc : -ENOSPC;
}

/* --- open and close -------------------------------------------------------------------------------------------------- */

static void enter_call(void)
{
    sim_stores_seen(sim.current);
    sim_step();
}

#define CALL() (enter_call(), sim_note(SIM_SITE(), __func__, 0, 0))

int bf_os_open(int dir, const char *name, int flags, uint32_t mode)
{
    struct sim_node *directory, *n;
    char last[NAME_BYTES];
    bool makes = (flags & (BF_OS_CREATE_NEW | BF_OS_CREATE)) != 0;
    bool writes = (flags & (BF_OS_WRITE | BF_OS_READ_WRITE)) != 0;
    CALL();
    if (sim_fails("open"))
        return -EMFILE;
    int rc = walk(dir, name, &directory, last);
    if (rc < 0)
        return rc;
    struct entry *e = find(directory, last);
    if (e != NULL && (flags & BF_OS_CREATE_NEW) != 0)
        return -EEXIST;
    if (e == NULL && (!makes || directory->links == 0))
        return -ENOENT;
    n = e != NULL ? e->node : new_node(NODE_FILE, mode);
    if (n->kind != NODE_FILE)
        return n->kind == NODE_LINK ? -ELOOP : writes ? -EISDIR : -ENXIO;
    if (e != NULL && ((n->mode & (writes ? 0200u : 0400u)) == 0))
        return -EACCES;
    int fd = new_descriptor(n, writes, NULL);
    if (fd < 0)
        return fd;
    if (e == NULL) {
        put(directory, last, n);
        tell(directory, IN_CREATE, last);
    }
    return fd;
}

static int open_directory(int dir, const char *name, bool passes_only)
{
    struct sim_node *n;
    if (sim_fails("open"))
        return -EMFILE;
    int rc = find_node(dir, name, &n);
    if (rc < 0)
        return rc;
    if (n->kind != NODE_DIRECTORY)
        return -ENOTDIR;
    int fd = new_descriptor(n, false, NULL);
    if (fd >= 0)
        file_of(fd)->passes_only = passes_only;
    return fd;
}

int bf_os_open_dir(int dir, const char *name)
{
    CALL();
    return open_directory(dir, name, false);
}

int bf_os_enter_dir(int dir, const char *name)
{
    CALL();
    return open_directory(dir, name, true);
}

/* The kernel tells of it first, and lets go of the lock then. Who is killed in between leaves the rest to it. */
static void close_file(struct sim_process *p, unsigned fd)
{
    struct sim_file *f = p->files[fd];
    struct sim_node *n = f->node;
    if (n->kind == NODE_FILE && f->writable && n->links > 0 && !f->told) /* IN_EXCL_UNLINK */
        tell(n->parent, IN_CLOSE_WRITE, n->name);
    f->told = true;
    sim_step();
    p->files[fd] = NULL;
    if (n->locked_by == f)
        n->locked_by = NULL;
    for (unsigned i = 0; i < WATCHES && f->inotify != NULL; i++)
        if (watches[i].inotify == f->inotify)
            watches[i].inotify = NULL;
    f->node = NULL;
    n->users--;
    forget_if_unused(n);
}

void bf_os_close(int fd)
{
    if (fd < 0)
        return;
    CALL();
    file_of(fd);
    close_file(sim_self(), (unsigned)fd);
}

void sim_process_close_files(struct sim_process *p)
{
    for (unsigned fd = 0; fd < SIM_DESCRIPTORS; fd++)
        if (p->files[fd] != NULL) {
            sim_step();
            close_file(p, fd);
        }
}

unsigned sim_process_files(const struct sim_process *p)
{
    unsigned count = 0;
    for (unsigned fd = 0; fd < SIM_DESCRIPTORS; fd++)
        count += p->files[fd] != NULL;
    return count;
}

/* --- what is asked about files, and done to them --------------------------------------------------------------------- */

static void describe(const struct sim_node *n, struct bf_os_file *file)
{
    *file = (struct bf_os_file){.device = DEVICE,
                                .inode = (uint64_t)(n - nodes) + 1,
                                .bytes = n->bytes,
                                .uid = UID,
                                .gid = UID,
                                .mode = n->mode,
                                .links = n->links,
                                .regular = n->kind == NODE_FILE,
                                .directory = n->kind == NODE_DIRECTORY};
}

int bf_os_stat(int fd, struct bf_os_file *file)
{
    CALL();
    if (sim_fails("stat"))
        return -ENOMEM;
    describe(file_of(fd)->node, file);
    return 0;
}

int bf_os_stat_at(int dir, const char *name, struct bf_os_file *file)
{
    struct sim_node *n;
    CALL();
    if (sim_fails("stat"))
        return -ENOMEM;
    int rc = find_node(dir, name, &n);
    if (rc == 0)
        describe(n, file);
    return rc;
}

int bf_os_space(int fd, bool *tmpfs, uint64_t *free_bytes)
{
    CALL();
    file_of(fd);
    *tmpfs = true;
    *free_bytes = (sim.machine.pages_max - pages_used) * PAGE;
    return 0;
}

int bf_os_mode(int fd, uint32_t mode)
{
    CALL();
    file_of(fd)->node->mode = mode;
    return 0;
}

int bf_os_group(int fd, uint32_t gid)
{
    CALL();
    file_of(fd);
    return gid == UID ? 0 : -EPERM;
}

int bf_os_share(int fd, uint32_t own, uint32_t uid, uint32_t theirs)
{
    (void)own, (void)uid, (void)theirs;
    CALL();
    file_of(fd);
    return -EOPNOTSUPP; /* a tmpfs without access lists; there is one user only */
}

int bf_os_append_only(int fd, bool on)
{
    (void)on;
    CALL();
    file_of(fd);
    return -EPERM;
}

int bf_os_size(int fd, uint64_t bytes)
{
    CALL();
    return sim_fails("size") ? -ENOSPC : grow(file_of(fd)->node, bytes);
}

int bf_os_allocate(int fd, uint64_t offset, uint64_t bytes)
{
    CALL();
    return sim_fails("allocate") ? -ENOSPC : grow(file_of(fd)->node, offset + bytes);
}

int bf_os_write_at(int fd, const void *data, size_t bytes, uint64_t offset)
{
    CALL();
    struct sim_node *n = file_of(fd)->node;
    int rc = sim_fails("write") ? -ENOSPC : grow(n, offset + bytes);
    if (rc == 0)
        memcpy(content(n) + offset, data, bytes);
    return rc;
}

int bf_os_read_at(int fd, void *data, size_t bytes, uint64_t offset)
{
    CALL();
    const struct sim_node *n = file_of(fd)->node;
    uint64_t there = offset < n->bytes ? n->bytes - offset : 0;
    bytes = bytes < there ? bytes : there;
    memcpy(data, content(n) + offset, bytes);
    return (int)bytes;
}

static int drop_entry(struct sim_node *directory, const char *name, bool is_directory)
{
    struct entry *e = find(directory, name);
    if (e == NULL)
        return -ENOENT;
    struct sim_node *n = e->node;
    if (is_directory != (n->kind == NODE_DIRECTORY))
        return is_directory ? -ENOTDIR : -EISDIR;
    for (unsigned i = 0; is_directory && i < ENTRIES; i++)
        if (entries[i].directory == n)
            return -ENOTEMPTY;
    e->directory = NULL;
    n->links--;
    tell(directory, IN_DELETE, name);
    forget_if_unused(n);
    return 0;
}

int bf_os_rename(int dir, const char *from, const char *to)
{
    CALL();
    struct sim_node *directory = directory_of(dir);
    struct entry *e = find(directory, from), *before = find(directory, to);
    if (sim_fails("rename"))
        return -ENOSPC;
    if (e == NULL)
        return -ENOENT;
    if (before != NULL) {
        before->directory = NULL;
        before->node->links--;
        forget_if_unused(before->node);
    }
    tell(directory, IN_MOVED_FROM, from);
    snprintf(e->node->name, sizeof e->node->name, "%s", to);
    tell(directory, IN_MOVED_TO, to);
    return 0;
}

int bf_os_unlink(int dir, const char *name)
{
    struct sim_node *directory;
    char last[NAME_BYTES];
    CALL();
    int rc = walk(dir, name, &directory, last);
    return rc < 0 ? rc : drop_entry(directory, last, false);
}

int bf_os_remove_dir(int dir, const char *name)
{
    CALL();
    return drop_entry(directory_of(dir), name, true);
}

int bf_os_make_dir(int dir, const char *name, uint32_t mode)
{
    struct sim_node *directory;
    char last[NAME_BYTES];
    CALL();
    if (sim_fails("mkdir"))
        return -ENOSPC;
    int rc = walk(dir, name, &directory, last);
    if (rc < 0)
        return rc;
    if (find(directory, last) != NULL)
        return -EEXIST;
    put(directory, last, new_node(NODE_DIRECTORY, mode));
    tell(directory, IN_CREATE, last);
    return 0;
}

int bf_os_symlink(int dir, const char *target, const char *name)
{
    CALL();
    struct sim_node *directory = directory_of(dir);
    if (sim_fails("symlink"))
        return -ENOSPC;
    if (find(directory, name) != NULL)
        return -EEXIST;
    struct sim_node *n = new_node(NODE_LINK, 0777);
    snprintf(n->target, sizeof n->target, "%s", target);
    put(directory, name, n);
    tell(directory, IN_CREATE, name);
    return 0;
}

int bf_os_read_link(int dir, const char *name, char *target, size_t bytes)
{
    struct sim_node *n;
    CALL();
    int rc = find_node(dir, name, &n);
    if (rc < 0)
        return rc;
    if (n->kind != NODE_LINK)
        return -EINVAL;
    if (strlen(n->target) >= bytes)
        return -ENAMETOOLONG;
    strcpy(target, n->target);
    return (int)strlen(target);
}

/* --- listing --------------------------------------------------------------------------------------------------------- */

static int in_order(const void *left, const void *right)
{
    const struct entry *a = *(const struct entry *const *)left, *b = *(const struct entry *const *)right;
    return a->order < b->order ? -1 : a->order > b->order;
}

static unsigned entries_of(const struct sim_node *directory, const struct entry **out)
{
    unsigned count = 0;
    for (unsigned i = 0; i < ENTRIES; i++)
        if (entries[i].directory == directory)
            out[count++] = &entries[i];
    qsort(out, count, sizeof *out, in_order);
    return count;
}

int bf_os_list(int dir, int (*each)(void *context, const char *name), void *context)
{
    const struct entry *some[ENTRIES];
    char name[NAME_BYTES];
    CALL();
    if (sim_fails("list"))
        return -EMFILE;
    uint64_t done = 0;
    for (;;) { /* whatever happens to the directory meanwhile */
        unsigned count = entries_of(directory_of(dir), some), i = 0;
        while (i < count && some[i]->order <= done)
            i++;
        if (i == count)
            return 0;
        done = some[i]->order;
        snprintf(name, sizeof name, "%s", some[i]->node->name);
        int rc = each(context, name);
        if (rc != 0)
            return rc;
    }
}

int bf_os_list_some(int dir, void (*each)(void *context, const char *name), void *context)
{
    const struct entry *some[ENTRIES];
    char name[NAME_BYTES];
    CALL();
    struct sim_file *f = file_of(dir);
    unsigned count = entries_of(f->node, some), end = f->position + 2;
    if (f->position >= count) {
        f->position = 0;
        return 0;
    }
    for (; f->position < end && f->position < count; f->position++) {
        snprintf(name, sizeof name, "%s", some[f->position]->node->name);
        each(context, name);
        count = entries_of(f->node, some);
    }
    return 1;
}

const char *sim_list(const char *path)
{
    static char line[512];
    const struct entry *some[ENTRIES];
    struct sim_node *n;
    line[0] = '\0';
    if (find_node(BF_OS_CWD, path, &n) < 0)
        return line;
    unsigned count = entries_of(n, some);
    for (unsigned i = 0; i < count; i++)
        snprintf(line + strlen(line), sizeof line - strlen(line), "%s%s", i > 0 ? " " : "", some[i]->node->name);
    return line;
}

/* --- locks ----------------------------------------------------------------------------------------------------------- */

int bf_os_lock(int fd)
{
    CALL();
    struct sim_file *f = file_of(fd);
    if (sim_fails("lock"))
        return -ENOLCK;
    if (f->node->locked_by != NULL && f->node->locked_by != f)
        return -EAGAIN;
    f->node->locked_by = f;
    return 0;
}

int bf_os_locked(int fd)
{
    CALL();
    const struct sim_file *f = file_of(fd);
    if (sim_fails("locked"))
        return -ENOLCK;
    return f->node->locked_by != NULL && f->node->locked_by != f;
}

/* --- maps ------------------------------------------------------------------------------------------------------------ */

static struct sim_map *free_map(struct sim_process *p)
{
    for (unsigned i = 0; i < SIM_MAPS; i++)
        if (p->maps[i].at == NULL)
            return &p->maps[i];
    sim_fail("process %s has too many maps", p->name);
}

static uint8_t *new_addresses(struct sim_process *p, size_t bytes)
{
    uint64_t begin = SIM_SHARED_AT + (uint64_t)(p - sim.processes) * SIM_SHARED_EACH + p->mapped_to;
    p->mapped_to += (pages_of(bytes) + 1) * PAGE; /* and a page that nobody may touch */
    if (p->mapped_to > SIM_SHARED_EACH)
        sim_fail("process %s has used up its addresses", p->name);
    return (uint8_t *)(uintptr_t)begin;
}

static void no_access(uint8_t *at, size_t bytes)
{
    if (mmap(at, pages_of(bytes) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        sim_fail("mmap: %s", strerror(errno));
}

static void drop_maps(struct sim_process *p, const uint8_t *at, size_t bytes)
{
    for (unsigned i = 0; i < SIM_MAPS; i++) {
        struct sim_map *m = &p->maps[i];
        if (m->at == NULL || m->at < at || m->at >= at + bytes)
            continue;
        if (m->node != NULL) {
            m->node->users--;
            forget_if_unused(m->node);
        }
        m->at = NULL;
    }
}

void *bf_os_reserve(size_t bytes)
{
    struct sim_process *p = sim_self();
    CALL();
    if (sim_fails("reserve"))
        return NULL;
    struct sim_map *m = free_map(p);
    *m = (struct sim_map){.at = new_addresses(p, bytes), .bytes = bytes};
    return m->at;
}

int bf_os_map(int fd, size_t bytes, bool writable, void *at, void **out)
{
    struct sim_process *p = sim_self();
    CALL();
    struct sim_file *f = file_of(fd);
    if (sim_fails("map"))
        return -ENOMEM;
    if (writable && !f->writable)
        return -EACCES;
    if (bytes > pages_of(f->node->bytes) * PAGE)
        sim_fail("process %s maps more than the file has", p->name);
    struct sim_map *m = free_map(p);
    uint8_t *where = at != NULL ? at : new_addresses(p, bytes);
    off_t offset = (off_t)((uint64_t)(f->node - nodes) * NODE_BYTES);
    if (mmap(where, pages_of(bytes) * PAGE, writable ? PROT_READ | PROT_WRITE : PROT_READ,
             MAP_SHARED | MAP_FIXED | MAP_POPULATE, memory_fd, offset) == MAP_FAILED)
        sim_fail("mmap: %s", strerror(errno));
    *m = (struct sim_map){.at = where, .bytes = bytes, .node = f->node, .writable = writable};
    f->node->users++;
    *out = where;
    return 0;
}

/* Within what was reserved: those addresses stay. */
int bf_os_map_none(void *at, size_t bytes)
{
    struct sim_process *p = sim_self();
    CALL();
    no_access(at, bytes);
    for (unsigned i = 0; i < SIM_MAPS; i++) {
        struct sim_map *m = &p->maps[i];
        if (m->at >= (uint8_t *)at && m->at < (uint8_t *)at + bytes && m->node != NULL)
            drop_maps(p, m->at, 1);
    }
    return 0;
}

int bf_os_unmap(void *at, size_t bytes)
{
    CALL();
    no_access(at, bytes);
    drop_maps(sim_self(), at, bytes);
    return 0;
}

int bf_os_map_zeros(void *at, size_t bytes, bool writable)
{
    (void)at, (void)bytes, (void)writable;
    sim_fail("nothing is ever cut short here");
}

int bf_os_populate(void *at, size_t bytes, bool writable)
{
    (void)at, (void)bytes, (void)writable;
    CALL();
    return sim_fails("populate") ? -ENOMEM : 0;
}

int bf_os_no_fork(void *at, size_t bytes)
{
    (void)at, (void)bytes;
    return 0;
}

void sim_process_unmap(struct sim_process *p)
{
    for (unsigned i = 0; i < SIM_MAPS; i++) {
        struct sim_map *m = &p->maps[i];
        if (m->at == NULL)
            continue;
        no_access(m->at, m->bytes);
        if (m->node != NULL) {
            m->node->users--;
            forget_if_unused(m->node);
        }
        m->at = NULL;
    }
}

unsigned sim_process_maps(const struct sim_process *p)
{
    unsigned count = 0;
    for (unsigned i = 0; i < SIM_MAPS; i++)
        count += p->maps[i].at != NULL;
    return count;
}

/* --- words ----------------------------------------------------------------------------------------------------------- */

static const struct sim_map *map_of(const struct sim_process *p, const void *at)
{
    for (unsigned i = 0; i < SIM_MAPS; i++) {
        const struct sim_map *m = &p->maps[i];
        if (m->at != NULL && m->node != NULL && (const uint8_t *)at >= m->at && (const uint8_t *)at < m->at + m->bytes)
            return m;
    }
    return NULL;
}

uint64_t sim_word_key(struct sim_process *p, const void *word)
{
    if (!sim_is_shared(word))
        return (uintptr_t)word; /* of a heap or a stack: nobody else's is there */
    const struct sim_map *m = map_of(p, word);
    return m == NULL ? 0 : (uintptr_t)content(m->node) + (uint64_t)((const uint8_t *)word - m->at);
}

/* Of a key or of an address in a map. */
void sim_word_name(char *name, size_t bytes, uint64_t at)
{
    const struct sim_node *n = NULL;
    uint64_t offset = 0;
    name[0] = '\0';
    if (sim_is_shared((const void *)(uintptr_t)at)) {
        const struct sim_process *p = &sim.processes[(at - SIM_SHARED_AT) / SIM_SHARED_EACH];
        const struct sim_map *m = map_of(p, (const void *)(uintptr_t)at);
        n = m == NULL ? NULL : m->node;
        offset = m == NULL ? 0 : at - (uintptr_t)m->at;
    } else if (at - SIM_FILES_AT < NODES * NODE_BYTES) {
        n = &nodes[(at - SIM_FILES_AT) / NODE_BYTES];
        offset = (at - SIM_FILES_AT) % NODE_BYTES;
    }
    if (n != NULL)
        snprintf(name, bytes, "%s+%llu", n->name, (unsigned long long)offset);
    else if (at != 0)
        snprintf(name, bytes, "%llx", (unsigned long long)at);
}

/* --- new ------------------------------------------------------------------------------------------------------------- */

void sim_files_open(void)
{
    memory_fd = memfd_create("sim", MFD_CLOEXEC);
    if (memory_fd < 0 || ftruncate(memory_fd, NODES * NODE_BYTES) != 0 ||
        mmap((void *)(uintptr_t)SIM_FILES_AT, NODES * NODE_BYTES, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED_NOREPLACE, memory_fd, 0) != (void *)(uintptr_t)SIM_FILES_AT) {
        perror("sim: no memory for its files");
        exit(1);
    }
}

void sim_files_reset(void)
{
    memset(entries, 0, sizeof entries);
    memset(files, 0, sizeof files);
    memset(watches, 0, sizeof watches);
    memset(inotifies, 0, sizeof inotifies);
    entries_made = pages_used = 0;
    node_count = 0;
    root = new_node(NODE_DIRECTORY, 0700);
}
