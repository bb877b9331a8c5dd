/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Keeps the warnings that the library prints. */
#ifndef SAID_H
#define SAID_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <bpf/libbpf.h>

static char said[1 << 16];

static int listen(enum libbpf_print_level level, const char *format, va_list args)
{
	size_t used = strlen(said);

	if (level != LIBBPF_DEBUG)
		vsnprintf(said + used, sizeof(said) - used, format, args);
	return 0;
}

#endif
