/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For programs that include <bpf/bpf.h>: what there is of it in libskep. */
#include "../skep.h"
