/* A NVML library that plays a scripted machine: the lines of the file $NVML_SCRIPT, "word value" each.
   driver V, init N (what nvmlInit returns), gpu NAME (opens a card); then of that card: cc A.B, memory MiB, used MiB,
   power/limit/default mW, util %, temp C, sm/mem MHz, throttle BITS, width/widthmax LANES, process PID MiB (0: not told),
   lost_after N (calls until it falls off the bus; 0: gone from the start). What is not said is not supported. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, BAD = 2, UNSUPPORTED = 3, SMALL = 7, LOST = 15 };
typedef struct { char name[96]; long cc_major, cc_minor, memory, used, power, limit, normal, util, temp, sm, mem,
  throttle, width, widthmax, lost_after, processes; unsigned pid[8]; long held[8]; } card;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
static card cards[8];
static int count, status;
static char driver[80];

static void read_script(void) {
  static const struct { const char *word; size_t at; } words[] = {
    {"memory", offsetof(card, memory)}, {"used", offsetof(card, used)}, {"power", offsetof(card, power)},
    {"limit", offsetof(card, limit)}, {"default", offsetof(card, normal)}, {"util", offsetof(card, util)},
    {"temp", offsetof(card, temp)}, {"sm", offsetof(card, sm)}, {"mem", offsetof(card, mem)},
    {"throttle", offsetof(card, throttle)}, {"width", offsetof(card, width)},
    {"widthmax", offsetof(card, widthmax)}, {"lost_after", offsetof(card, lost_after)}};
  char line[256], word[32], rest[200];
  FILE *file = fopen(getenv("NVML_SCRIPT"), "r");
  count = status = 0;
  while (file && fgets(line, sizeof line, file)) {
    card *now = &cards[count ? count - 1 : 0];
    if (sscanf(line, "%31s %199[^\n]", word, rest) != 2) continue;
    if (!strcmp(word, "driver")) strcpy(driver, rest);
    else if (!strcmp(word, "init")) status = atoi(rest);
    else if (!strcmp(word, "gpu")) {
      now = &cards[count++];
      memset(now, 0xff, sizeof *now); /* every figure -1: not supported */
      now->processes = 0;
      strncpy(now->name, rest, sizeof now->name);
    } else if (!strcmp(word, "cc")) sscanf(rest, "%ld.%ld", &now->cc_major, &now->cc_minor);
    else if (!strcmp(word, "process")) {
      sscanf(rest, "%u %ld", &now->pid[now->processes], &now->held[now->processes]);
      now->processes++;
    } else for (size_t i = 0; i < sizeof words / sizeof *words; i++)
      if (!strcmp(word, words[i].word)) *(long *)((char *)now + words[i].at) = strtol(rest, 0, 0);
  }
  if (file) fclose(file);
}

static int gone(card *c) {
  if (c->lost_after == 0) return 1;
  if (c->lost_after > 0) c->lost_after--;
  return 0;
}
static int give(card *c, long value, unsigned *out) {
  if (gone(c)) return LOST;
  if (value < 0) return UNSUPPORTED;
  *out = (unsigned)value;
  return OK;
}

int nvmlInitWithFlags(unsigned f) { (void)f; read_script(); return status; }
int nvmlInit_v2(void) { read_script(); return status; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int r) {
  return r == 18 ? "Driver/library version mismatch" : r == LOST ? "GPU is lost" : r == 9 ? "Driver Not Loaded" : "Error";
}
int nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, driver, n); return OK; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = (unsigned)count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, card **c) {
  if (i >= (unsigned)count) return BAD;
  *c = &cards[i];
  return (*c)->lost_after == 0 ? LOST : OK;
}
int nvmlDeviceGetHandleByUUID(const char *u, card **c) {
  unsigned i;
  return sscanf(u, "GPU-%u", &i) == 1 ? nvmlDeviceGetHandleByIndex_v2(i, c) : BAD;
}
int nvmlDeviceGetUUID(card *c, char *v, unsigned n) { snprintf(v, n, "GPU-%ld", (long)(c - cards)); return OK; }
int nvmlDeviceGetIndex(card *c, unsigned *i) { *i = (unsigned)(c - cards); return OK; }
int nvmlDeviceGetName(card *c, char *v, unsigned n) {
  if (gone(c)) return LOST;
  strncpy(v, c->name, n);
  return OK;
}
int nvmlDeviceGetCudaComputeCapability(card *c, int *a, int *b) {
  if (gone(c)) return LOST;
  *a = (int)c->cc_major;
  *b = (int)c->cc_minor;
  return OK;
}
int nvmlDeviceGetMemoryInfo(card *c, memory_t *m) {
  if (gone(c)) return LOST;
  m->total = (unsigned long long)c->memory << 20;
  m->used = (unsigned long long)(c->used < 0 ? 0 : c->used) << 20;
  m->free = m->total - m->used;
  return OK;
}
int nvmlDeviceGetUtilizationRates(card *c, utilisation_t *u) { u->memory = 0; return give(c, c->util, &u->gpu); }
int nvmlDeviceGetTemperature(card *c, int sensor, unsigned *t) { (void)sensor; return give(c, c->temp, t); }
int nvmlDeviceGetPowerUsage(card *c, unsigned *p) { return give(c, c->power, p); }
int nvmlDeviceGetEnforcedPowerLimit(card *c, unsigned *p) { return give(c, c->limit, p); }
int nvmlDeviceGetPowerManagementLimit(card *c, unsigned *p) { return give(c, c->limit, p); }
int nvmlDeviceGetPowerManagementDefaultLimit(card *c, unsigned *p) { return give(c, c->normal, p); }
int nvmlDeviceGetClockInfo(card *c, int kind, unsigned *f) { return give(c, kind == 2 ? c->mem : c->sm, f); }
int nvmlDeviceGetCurrPcieLinkWidth(card *c, unsigned *w) { return give(c, c->width, w); }
int nvmlDeviceGetMaxPcieLinkWidth(card *c, unsigned *w) { return give(c, c->widthmax, w); }
int nvmlDeviceGetCurrentClocksThrottleReasons(card *c, unsigned long long *r) {
  unsigned bits = 0;
  int answer = give(c, c->throttle, &bits);
  *r = bits;
  return answer;
}
int nvmlDeviceGetComputeRunningProcesses_v3(card *c, unsigned *n, process_t *list) {
  unsigned room = *n;
  if (gone(c)) return LOST;
  *n = (unsigned)c->processes;
  if (room < *n) return SMALL;
  for (unsigned i = 0; i < *n; i++)
    list[i] = (process_t){c->pid[i], c->held[i] ? (unsigned long long)c->held[i] << 20 : ~0ULL, 0, 0};
  return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(card *c, unsigned *n, process_t *list) {
  (void)c; (void)list;
  *n = 0;
  return OK;
}
