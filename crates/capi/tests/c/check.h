/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the C tests say when something is not as it should be. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);      \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

/* Both sides as numbers, shown when they differ. */
#define SAME(left, right)                                                                                              \
	do {                                                                                                           \
		long long left_ = (long long)(left), right_ = (long long)(right);                                      \
		if (left_ != right_) {                                                                                 \
			fprintf(stderr, "%s:%d: %s is %lld, %s is %lld (errno %d)\n", __FILE__, __LINE__, #left,       \
				left_, #right, right_, errno);                                                         \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

#endif
