/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * For light skeletons (`skep gen skeleton -L`, `bpftool gen skeleton -L`): what their headers call. Their loader programs run
 * on the engine of libskep and not on a kernel; the descriptors that they leave in the skeleton are libskep's, for the
 * functions of <bpf/bpf.h>, close() and mmap().
 *
 * The structs are those that a loader program reads and fills. A data section that is not from skel_prep_map_data() cannot be
 * read by it (-EFAULT).
 */
#ifndef SKEP_SKEL_INTERNAL_H
#define SKEP_SKEL_INTERNAL_H

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../skep.h"

struct bpf_map_desc {
	int map_fd;                  /* out */
	__u32 max_entries;           /* in, 0 for what the object says */
	__aligned_u64 initial_value; /* in, an address or 0 */
};

struct bpf_prog_desc {
	int prog_fd; /* out */
};

struct bpf_loader_ctx {
	__u32 sz; /* of this, of the maps and of the programs */
	__u32 flags;
	__u32 log_level;
	__u32 log_size;
	__u64 log_buf;
};

struct bpf_load_and_run_opts {
	struct bpf_loader_ctx *ctx;
	const void *data;
	const void *insns;
	__u32 data_sz;
	__u32 insns_sz;
	const char *errstr; /* out, what failed */
};

static inline int bpf_load_and_run(struct bpf_load_and_run_opts *opts)
{
	return skep_load_and_run(opts->ctx, opts->data, opts->data_sz, opts->insns, opts->insns_sz, &opts->errstr);
}

static inline void *skel_alloc(size_t size)
{
	return calloc(1, size);
}

static inline void skel_free(void *p)
{
	free(p);
}

static inline int skel_closenz(int fd)
{
	return fd > 0 ? close(fd) : -EINVAL;
}

/* Memory of a data section: the initial value until it is loaded. */
static inline void *skel_prep_map_data(const void *val, size_t mmap_sz, size_t val_sz)
{
	return skep_light_data(val, mmap_sz, val_sz);
}

/* At the same address, the value of a loaded array. */
static inline void *skel_finalize_map_data(__u64 *init_val, size_t mmap_sz, int flags, int fd)
{
	void *memory = mmap((void *)(unsigned long)*init_val, mmap_sz, flags, MAP_SHARED | MAP_FIXED, fd, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* At the same address, the initial value that every CPU began with, from now on read-only. */
static inline int skel_protect_map_data(void *p, __u64 *init_val, size_t mmap_sz)
{
	(void)init_val;
	return mprotect(p, mmap_sz, PROT_READ) ? -errno : 0;
}

static inline void skel_free_map_data(void *p, __u64 addr, size_t sz)
{
	(void)addr;
	(void)sz;
	skep_light_data_free(p);
}

static inline int skel_map_create(enum bpf_map_type map_type, const char *map_name, __u32 key_size, __u32 value_size,
				  __u32 max_entries)
{
	return bpf_map_create(map_type, map_name, key_size, value_size, max_entries, NULL);
}

static inline int skel_map_update_elem(int fd, const void *key, const void *value, __u64 flags)
{
	return bpf_map_update_elem(fd, key, value, flags);
}

static inline int skel_map_delete_elem(int fd, const void *key)
{
	return bpf_map_delete_elem(fd, key);
}

static inline int skel_map_get_fd_by_id(__u32 id)
{
	return bpf_map_get_fd_by_id(id);
}

static inline int skel_map_freeze(int fd)
{
	return bpf_map_freeze(fd);
}

/* Nothing hangs on a kernel here: -EOPNOTSUPP. */
static inline int skel_raw_tracepoint_open(const char *name, int prog_fd)
{
	return bpf_raw_tracepoint_open(name, prog_fd);
}

static inline int skel_link_create(int prog_fd, int target_fd, enum bpf_attach_type attach_type)
{
	return bpf_link_create(prog_fd, target_fd, attach_type, NULL);
}

#endif /* SKEP_SKEL_INTERNAL_H */
