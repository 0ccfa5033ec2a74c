/* A driver for tests: libcuda.so.1 without a GPU. Device memory is host memory that begins as NaN; a launch is checked
   against the limits of a GPU, and does nothing. What a program may not do while a stream is recorded fails as it does
   in CUDA. Only what numba-cuda calls is here: test_cuda_launch.py runs the host side of every kernel with it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned grid[3], block[3], shared; void *stream; } Launch;
enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NOT_IN_CAPTURE = 900, INVALIDATED = 901 };
static void *context, *recorded; /* the stream that is recorded, or 0 */
static int invalid, relaxed;
long launches, replays, nodes, live, room = 1L << 34;

static int refused(void) { return recorded && !relaxed ? (invalid = 1, NOT_IN_CAPTURE) : OK; }

#define NOTHING(name) int name(void) { return OK; }
#define HANDLE(name) int name(void **out) { *out = calloc(1, 64); return OK; }
#define NUMBER(name, value) int name(int *out) { *out = value; return OK; }
#define COPY(name) int name(char *to, char *from, size_t n) { if (!refused()) memcpy(to, from, n); return refused(); }

NOTHING(cuInit) NOTHING(cuCtxPopCurrent_v2) NOTHING(cuEventRecord) NOTHING(cuEventSynchronize) NOTHING(cuEventDestroy_v2)
NOTHING(cuLibraryUnload) NOTHING(cuModuleUnload) NOTHING(cuStreamDestroy_v2) NOTHING(cuGraphDestroy) NOTHING(cuGraphExecDestroy)
NOTHING(cuKernelSetAttribute) NOTHING(cuDevicePrimaryCtxRelease_v2)
HANDLE(cuStreamCreate) HANDLE(cuEventCreate) HANDLE(cuLibraryLoadData) HANDLE(cuModuleLoadDataEx)
NUMBER(cuDriverGetVersion, 13000) NUMBER(cuDeviceGet, 0) NUMBER(cuDeviceGetCount, 1) NUMBER(cuCtxGetDevice, 0)
NUMBER(cuCtxGetDevice_v2, 0) NUMBER(cuFuncGetAttribute, 0) NUMBER(cuKernelGetAttribute, 0) NUMBER(cuStreamGetFlags, 0)
COPY(cuMemcpyHtoD_v2) COPY(cuMemcpyDtoH_v2) COPY(cuMemcpyDtoD_v2)
COPY(cuMemcpyHtoDAsync_v2) COPY(cuMemcpyDtoHAsync_v2) COPY(cuMemcpyDtoDAsync_v2)

int cuDeviceGetName(char *out, int n) { strncpy(out, "A fake", n); return OK; }
int cuDeviceGetUuid_v2(char *out) { memset(out, 7, 16); return OK; }
int cuDeviceTotalMem_v2(size_t *out) { *out = room; return OK; }
int cuDeviceGetAttribute(int *out, int which) { *out = which == 75 ? 9 : which == 76 ? 0 : 1; return OK; } /* sm_90 */
int cuDevicePrimaryCtxRetain(void **out) { *out = &context; return OK; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return OK; }
int cuCtxGetCurrent(void **out) { *out = context; return OK; }
int cuCtxSetCurrent(void *c) { context = c; return OK; }
int cuCtxPushCurrent_v2(void *c) { context = c; return OK; }
int cuCtxSynchronize(void) { return refused(); }
int cuStreamSynchronize(void) { return refused(); }
int cuStreamGetCtx(void *stream, void **out) { *out = context; return OK; }
int cuMemGetInfo_v2(size_t *available, size_t *total) { *available = room - live; *total = room; return OK; }

int cuMemAlloc_v2(char **out, size_t n) {
    char *p;
    if (refused()) return NOT_IN_CAPTURE;
    if (n == 0) return INVALID_VALUE;
    if (live + (long)n > room) return OUT_OF_MEMORY;
    if (posix_memalign((void **)&p, 256, n + 256)) return OUT_OF_MEMORY;
    *(size_t *)p = n;
    memset(p + 256, 255, n);
    live += n;
    *out = p + 256;
    return OK;
}
int cuMemFree_v2(char *p) {
    if (refused()) return NOT_IN_CAPTURE;
    live -= *(size_t *)(p - 256);
    free(p - 256);
    return OK;
}
int cuMemGetAddressRange_v2(char **base, size_t *n, char *p) { *base = p; *n = *(size_t *)(p - 256); return OK; }
int cuPointerGetAttribute(void **out, int which, void *p) {
    if (which == 9) *(int *)out = 0; /* the number of the GPU */
    else *out = which == 1 ? context : p;
    return OK;
}

int cuLibraryGetKernel(void **out, void *library, const char *name) { *out = strdup(name); return OK; }
int cuModuleGetFunction(void **out, void *module, const char *name) { *out = strdup(name); return OK; }
int cuKernelGetFunction(void **out, void *kernel) { *out = kernel; return OK; }
int cuKernelGetName(void **out, void *kernel) { *out = kernel; return OK; }
int cuLaunchKernelEx(Launch *l, const char *kernel) {
    unsigned *g = l->grid, *b = l->block;
    if (!g[0] || !g[1] || !g[2] || g[0] > 2147483647 || g[1] > 65535 || g[2] > 65535) return INVALID_VALUE;
    if (!b[0] || !b[1] || !b[2] || b[0] * b[1] * b[2] > 1024 || b[2] > 64 || l->shared) return INVALID_VALUE;
    if (recorded && l->stream != recorded) return refused();
    *(recorded ? &nodes : &launches) += 1;
    return OK;
}

int cuStreamBeginCapture_v2(void *stream) { nodes = 0; recorded = stream; return stream ? OK : INVALID_VALUE; }
int cuStreamEndCapture(void *stream, void **graph) {
    int wrong = invalid || stream != recorded;
    invalid = 0, recorded = 0, *graph = wrong ? 0 : calloc(1, 64);
    return wrong ? INVALIDATED : OK;
}
int cuStreamIsCapturing(void *stream, int *out) { *out = stream && stream == recorded; return OK; }
int cuThreadExchangeStreamCaptureMode(int *mode) { int was = relaxed ? 2 : 1; relaxed = *mode == 2; *mode = was; return OK; }
int cuGraphInstantiateWithFlags(void **out, void *graph) { *out = graph; return OK; }
int cuGraphLaunch(void *graph, void *stream) { replays++; return graph && !stream ? OK : INVALID_VALUE; }
int cuGetErrorName(int e, const char **out) { *out = e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "ERROR"; return OK; }
int cuGetErrorString(int e, const char **out) { *out = "an error of the fake driver"; return OK; }

int cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, int *status) {
    char full[200];
    Dl_info here;
    dladdr((void *)cuGetProcAddress_v2, &here);
    void *self = dlopen(here.dli_fname, RTLD_NOW);
    snprintf(full, sizeof full, "%s_v2", name);
    if (!(*out = dlsym(self, full))) *out = dlsym(self, name);
    if (status) *status = *out ? 0 : 1;
    return OK;
}
