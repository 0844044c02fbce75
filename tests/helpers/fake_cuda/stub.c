/* A CUDA runtime without a GPU: device memory is host memory, kernels are counted and not run.
   Read by tests/helpers/fake_cuda/build.py, which puts in the offsets (@name@) of struct cudaDeviceProp and adds a function that
   succeeds and does nothing for every other symbol that torch wants. Environment:
     FAKE_CUDA_DEVICES   how many (1)          FAKE_CUDA_CC     compute capability, 90 for 9.0
     FAKE_CUDA_MIB       memory of each        FAKE_CUDA_VALUES 0: memory is not copied on the device
     FAKE_CUDA_ERROR     CODE@N or CODE@N:DEVICE: from the N-th kernel of a process on every device, or on one, that it
                         uses, everything there fails with this cudaError_t; N = 0: from the start
     FAKE_CUDA_COUNT_ERROR  cudaGetDeviceCount fails with this code      FAKE_CUBLAS_ERROR  cublasCreate with this one
     FAKE_CUDA_FAIL_BYTES   an allocation of at least so many bytes fails, once in a process                       */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int E;
typedef void *S;
typedef struct { unsigned x, y, z; } D3;
enum { OK = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, UNSUPPORTED = 801 };
enum { LAUNCH, SYNC, H2D, D2H, D2D, MEMSET, ALLOC, BLOCKING, KINDS };
#define MOST 64

static long counted[KINDS], launched[MOST];
static size_t used[MOST];
static __thread int current;
static __thread E last;

static long number(const char *name, long otherwise) { const char *s = getenv(name); return s && *s ? atol(s) : otherwise; }
static size_t total(void) { return (size_t)number("FAKE_CUDA_MIB", 81920) << 20; }
static int values(void) { static int v = -1; if (v < 0) v = number("FAKE_CUDA_VALUES", 1) != 0; return v; }
long fake_cuda_count(int what) { return counted[what]; }

/* --- devices, as CUDA_VISIBLE_DEVICES has them: it ends at the first that is none, and a repeated one hides all;
   MIG-1 is the device 1, and as of real MIG instances only the first one is shown */
static int physical[MOST];

static void uuid_of(int d, char *text) { sprintf(text, "GPU-%02x000000-0000-0000-0000-000000000000", d); }

static int found(const char *name) {
  int there = number("FAKE_CUDA_DEVICES", 1);
  char text[64], *end;
  if (!strncmp(name, "GPU-", 4)) {
    for (int d = 0; d < there; d++) { uuid_of(d, text); if (name[4] && !strncmp(text, name, strlen(name))) return d; }
    return -1; }
  if (!strncmp(name, "MIG-", 4)) name += 4;
  long d = strtol(name, &end, 10);
  return end == name || d < 0 || d >= there ? -1 : (int)d; }

static int count(void) {
  static int known = -1;
  if (known >= 0) return known;
  const char *chosen = getenv("CUDA_VISIBLE_DEVICES");
  int k = 0, there = number("FAKE_CUDA_DEVICES", 1);
  if (!chosen) { for (; k < there; k++) physical[k] = k; return known = there; }
  char text[4096], *save, *name;
  strncpy(text, chosen, sizeof text - 1); text[sizeof text - 1] = 0;
  for (name = strtok_r(text, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
    while (*name == ' ') name++;
    int d = found(name);
    if (d < 0) break;
    for (int i = 0; i < k; i++) if (physical[i] == d) return known = 0;
    physical[k++] = d;
    if (!strncmp(name, "MIG-", 4)) break; }
  return known = k; }

/* --- faults */
static E broken(void) {
  const char *s = getenv("FAKE_CUDA_ERROR");
  long code, after, device = -1;
  if (!s || sscanf(s, "%ld@%ld:%ld", &code, &after, &device) < 2) return OK;
  int here = count() ? physical[current] : 0;
  if (device >= 0 && device != here) return OK;
  return launched[here] >= after ? (last = code) : OK; }
#define SOUND do { E e_ = broken(); if (e_) return e_; } while (0)

E cudaGetLastError(void) { E e = broken(); if (!e) { e = last; last = OK; } return e; }
E cudaPeekAtLastError(void) { E e = broken(); return e ? e : last; }
const char *cudaGetErrorName(E e) {
  switch (e) { case 0: return "cudaSuccess"; case 2: return "cudaErrorMemoryAllocation"; case 35: return "cudaErrorInsufficientDriver";
    case 46: return "cudaErrorDevicesUnavailable"; case 100: return "cudaErrorNoDevice"; case 101: return "cudaErrorInvalidDevice";
    case 214: return "cudaErrorECCUncorrectable"; case 700: return "cudaErrorIllegalAddress"; case 719: return "cudaErrorLaunchFailure";
    case 803: return "cudaErrorSystemDriverMismatch"; case 804: return "cudaErrorCompatNotSupportedOnDevice"; default: return "cudaErrorUnknown"; } }
const char *cudaGetErrorString(E e) {
  switch (e) { case 0: return "no error"; case 2: return "out of memory"; case 35: return "CUDA driver version is insufficient for CUDA runtime version";
    case 46: return "CUDA-capable device(s) is/are busy or unavailable"; case 100: return "no CUDA-capable device is detected"; case 101: return "invalid device ordinal";
    case 214: return "uncorrectable ECC error encountered"; case 700: return "an illegal memory access was encountered"; case 719: return "unspecified launch failure";
    case 803: return "system has unsupported display driver / cuda driver combination"; case 804: return "forward compatibility was attempted on non supported HW";
    default: return "unknown error"; } }

E cudaGetDeviceCount(int *c) {
  long error = number("FAKE_CUDA_COUNT_ERROR", 0);
  if (error) { *c = 0; return last = error; }
  *c = count(); return *c ? OK : (last = NO_DEVICE); }
E cudaGetDevice(int *d) { *d = current; return count() ? OK : NO_DEVICE; }
E cudaSetDevice(int d) { if (d < 0 || d >= count()) return INVALID_DEVICE; current = d; return launched[physical[d]] ? OK : broken(); }
E cudaDriverGetVersion(int *v) { *v = number("FAKE_CUDA_COUNT_ERROR", 0) == 35 ? 11000 : 13000; return OK; }
E cudaRuntimeGetVersion(int *v) { *v = 13000; return OK; }
E cudaDeviceGetAttribute(int *v, int a, int d) {
  int cc = number("FAKE_CUDA_CC", 90);
  switch (a) { case 75: *v = cc / 10; break; case 76: *v = cc % 10; break; case 16: *v = 132; break; case 10: *v = 32; break; case 1: *v = 1024; break;
    case 39: *v = 2048; break; case 8: *v = 49152; break; case 97: *v = 232448; break; case 2: case 3: case 4: *v = 1024; break;
    case 5: *v = 2147483647; break; case 6: case 7: *v = 65535; break; default: *v = 1; }
  return OK; }
#define SET(type, at, v) *(type *)((char *)p + (at)) = (v)
E cudaGetDeviceProperties(void *p, int d) {
  int cc = number("FAKE_CUDA_CC", 90), *grid = (int *)((char *)p + @maxGridSize@), *block = (int *)((char *)p + @maxThreadsDim@);
  if (d < 0 || d >= count()) return INVALID_DEVICE;
  memset(p, 0, @SIZE@); snprintf((char *)p + @name@, 250, "Fake GPU %d", physical[d]);
  SET(size_t, @totalGlobalMem@, total()); SET(int, @major@, cc / 10); SET(int, @minor@, cc % 10); SET(int, @multiProcessorCount@, 132);
  SET(int, @warpSize@, 32); SET(int, @maxThreadsPerBlock@, 1024); SET(int, @maxThreadsPerMultiProcessor@, 2048);
  SET(size_t, @sharedMemPerBlock@, 49152); SET(size_t, @sharedMemPerBlockOptin@, 232448); SET(size_t, @sharedMemPerMultiprocessor@, 233472);
  SET(int, @regsPerMultiprocessor@, 65536); SET(int, @regsPerBlock@, 65536); SET(int, @l2CacheSize@, 50 << 20); SET(char, @uuid@, physical[d]);
  grid[0] = 2147483647; grid[1] = grid[2] = 65535; block[0] = block[1] = 1024; block[2] = 64;
  return OK; }
E cudaGetDeviceProperties_v2(void *p, int d) { return cudaGetDeviceProperties(p, d); }
E cudaDeviceGetStreamPriorityRange(int *l, int *g) { *l = 0; *g = -5; return OK; }
E cudaDeviceCanAccessPeer(int *c, int a, int b) { *c = 0; return OK; }
E cudaDeviceGetPCIBusId(char *s, int size, int d) { snprintf(s, size, "0000:%02x:00.0", physical[d] + 1); return OK; }

/* --- memory */
E cudaMalloc(void **p, size_t size) {
  static int failed;
  *p = 0; SOUND;
  long most = number("FAKE_CUDA_FAIL_BYTES", 0);
  if (most && !failed && size >= (size_t)most) { failed = 1; return last = OUT_OF_MEMORY; }
  if (used[current] + size > total()) return last = OUT_OF_MEMORY;
  char *q = aligned_alloc(512, (size + 1023) & ~(size_t)511);
  if (!q) return last = OUT_OF_MEMORY;
  used[current] += malloc_usable_size(q); counted[ALLOC]++; memset(q, 0, size < 65536 ? size : 65536); *p = q;
  return OK; }
E cudaFree(void *p) { if (p) used[current] -= malloc_usable_size(p); free(p); return OK; }
E cudaHostAlloc(void **p, size_t size, unsigned f) { *p = aligned_alloc(4096, (size + 8191) & ~(size_t)4095); return OK; }
E cudaFreeHost(void *p) { free(p); return OK; }
E cudaMemGetInfo(size_t *f, size_t *t) { *t = total(); *f = *t - used[current]; return OK; }
static E copy(void *d, const void *s, size_t size, int k) {
  SOUND; counted[k == 1 ? H2D : k == 2 ? D2H : D2D]++;
  if (k != 3 || values()) memmove(d, s, size);
  return OK; }
E cudaMemcpy(void *d, const void *s, size_t z, int k) { counted[BLOCKING]++; return copy(d, s, z, k); }
E cudaMemcpyAsync(void *d, const void *s, size_t z, int k, S t) { return copy(d, s, z, k); }
E cudaMemcpyPeerAsync(void *d, int a, const void *s, int b, size_t z, S t) { return copy(d, s, z, 3); }
E cudaMemcpy2DAsync(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h, int k, S t) {
  for (size_t i = 0; i < h; i++) copy((char *)d + i * dp, (char *)s + i * sp, w, k);
  return broken(); }
E cudaMemset(void *d, int v, size_t z) { SOUND; counted[MEMSET]++; if (values()) memset(d, v, z); return OK; }
E cudaMemsetAsync(void *d, int v, size_t z, S s) { return cudaMemset(d, v, z); }
E cudaPointerGetAttributes(void *a, const void *p) { memset(a, 0, 48); return OK; }
E cudaGetSymbolAddress(void **p, const void *s) { *p = calloc(1, 1 << 16); return OK; }

/* --- streams, events, synchronisation */
E cudaStreamCreateWithPriority(S *s, unsigned f, int p) { *s = malloc(8); return OK; }
E cudaStreamCreateWithFlags(S *s, unsigned f) { *s = malloc(8); return OK; }
E cudaStreamCreate(S *s) { *s = malloc(8); return OK; }
E cudaStreamSynchronize(S s) { counted[SYNC]++; return broken(); }
E cudaDeviceSynchronize(void) { counted[SYNC]++; return broken(); }
E cudaEventSynchronize(S e) { counted[SYNC]++; return broken(); }
E cudaStreamIsCapturing(S s, int *c) { *c = 0; return OK; }
E cudaStreamGetCaptureInfo(S s, int *c, unsigned long long *id, void *g, void *d, void *e, size_t *k) { *c = 0; if (id) *id = 0; return OK; }
E cudaStreamBeginCapture(S s, int m) { return UNSUPPORTED; }
E cudaStreamEndCapture(S s, void **g) { return UNSUPPORTED; }
E cudaEventCreate(S *e) { *e = malloc(8); return OK; }
E cudaEventCreateWithFlags(S *e, unsigned f) { *e = malloc(8); return OK; }
E cudaEventElapsedTime(float *m, S a, S b) { *m = 1; return OK; }
E cudaStreamAddCallback(S s, void (*f)(S, int, void *), void *u, unsigned fl) { f(s, 0, u); return OK; }

/* --- kernels (CUDA 13's host stubs) */
static E launch(void) { int here = count() ? physical[current] : 0; SOUND; counted[LAUNCH]++; launched[here]++; return OK; }
E cudaLaunchKernel(const void *f, D3 g, D3 b, void **a, size_t m, S s) { return launch(); }
E cudaLaunchKernelExC(const void *c, const void *f, void **a) { return launch(); }
E __cudaLaunchKernel(void *k, D3 g, D3 b, void **a, size_t m, S s) { return launch(); }
E __cudaGetKernel(void **k, const void *f) { *k = (void *)f; return OK; }
E cudaFuncGetAttributes(void *a, const void *f) { memset(a, 0, 64); int *v = a; v[6] = 1024; v[7] = 32; v[8] = v[9] = 90; return OK; }
E cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *k, const void *f, int b, size_t s, unsigned fl) { *k = 2; return OK; }
void **__cudaRegisterFatBinary(void *f) { return calloc(1, 8); }
void __cudaRegisterFatBinaryEnd(void **h) {}
void __cudaUnregisterFatBinary(void **h) {}
char __cudaInitModule(void **h) { return 1; }
void __cudaRegisterFunction(void **h, const char *f, char *d, const char *n, int t, void *a, void *b, void *c, void *e, int *w) {}
void __cudaRegisterVar(void **h, char *a, char *b, const char *v, int e, size_t s, int c, int g) {}
E cudaGetDriverEntryPointByVersion(const char *s, void **f, unsigned v, unsigned long long fl, int *st) { *f = 0; if (st) *st = 1; return OK; }

/* --- the driver (this library is also libcuda.so.1) */
E cuInit(unsigned f) { long e = number("FAKE_CUDA_COUNT_ERROR", 0); return e ? e : count() ? OK : NO_DEVICE; }
E cuDriverGetVersion(int *v) { return cudaDriverGetVersion(v); }
E cuDeviceGetCount(int *c) { *c = count(); return OK; }
E cuDeviceGet(int *d, int o) { if (o < 0 || o >= count()) return INVALID_DEVICE; *d = o; return OK; }
E cuDeviceGetName(char *s, int size, int d) { snprintf(s, size, "Fake GPU %d", physical[d]); return OK; }
E cuDeviceTotalMem_v2(size_t *z, int d) { *z = total(); return OK; }
E cuDeviceGetUuid(char *u, int d) { memset(u, 0, 16); *u = physical[d]; return OK; }
E cuDeviceGetUuid_v2(char *u, int d) { memset(u, 0, 16); *u = physical[d]; return OK; }
E cuDeviceGetAttribute(int *v, int a, int d) { return cudaDeviceGetAttribute(v, a, d); }
E cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { *f = 0; *a = 1; return OK; }
E cuCtxGetCurrent(void **c) { *c = (void *)8; return OK; }
E cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)8; return OK; }

/* --- cuBLAS: products are counted and not made */
E cublasCreate_v2(void **h) { *h = 0; long e = number("FAKE_CUBLAS_ERROR", 0); if (e) return e; *h = calloc(1, 4096); return OK; }
E cublasLtMatmulAlgoGetHeuristic(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int r, void *res, int *k) { *k = 1; return OK; }
E cublasGetMathMode(void *h, int *m) { *m = 0; return OK; }
E cublasGetPointerMode_v2(void *h, int *m) { *m = 0; return OK; }
E cublasGetVersion_v2(void *h, int *v) { *v = 130000; return OK; }
