/* Threads that compute a pass together. The caller's own thread is the first of them.
 *
 * All members run the same function. In it, work is shared by ``take``: the next number that nobody has taken. Between
 * two pieces of work that depend on each other all members ``meet``. What a number stands for is computed by one member
 * from front to back, so results do not depend on how many there are.
 *
 * Members wait for each other within a pass by spinning, since that takes a microsecond, and yield if it takes longer.
 * Between passes they sleep.
 */
#ifndef ADASD_TEAM_H
#define ADASD_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { SPINS = 2000 }; /* some 20 to 50 microseconds */

typedef struct Team Team;
typedef void (*Work)(Team *team, int64_t member, const void *what);

struct Team {
  int64_t size, num_started; /* members of the pass at hand; threads of our own */
  Work work;
  const void *what;
  pthread_t *threads;
  pthread_mutex_t lock;
  pthread_cond_t called;
  int64_t num_asleep; /* under the lock */
  int ends;
  _Atomic int64_t num_calls, num_members; /* calls of ``together``; members that have started as a thread */
  _Atomic int64_t next, num_waiting, num_meetings;
};

static inline void pause_briefly(int64_t spins) {
  if (spins >= SPINS) {
    sched_yield();
    return;
  }
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

/* The next piece of work since the last meeting. */
static inline int64_t take(Team *team) {
  if (team->size > 1) return atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
  int64_t next = atomic_load_explicit(&team->next, memory_order_relaxed);
  atomic_store_explicit(&team->next, next + 1, memory_order_relaxed);
  return next;
}

/* Runs the statement behind it for each i below ``num``, each by one member. */
#define SHARED(team, i, num) for (int64_t i; (i = take(team)) < (num);)

/* Returns when all members are here; what they wrote is visible then. */
static inline void meet(Team *team) {
  int64_t before = atomic_load_explicit(&team->num_meetings, memory_order_relaxed);
  int64_t size = team->size; /* once all have arrived, the caller may change it for the next pass */
  if (size == 1 || atomic_fetch_add(&team->num_waiting, 1) + 1 == size) {
    atomic_store_explicit(&team->num_waiting, 0, memory_order_relaxed);
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    atomic_store_explicit(&team->num_meetings, before + 1, memory_order_release);
    return;
  }
  for (int64_t spins = 0; atomic_load_explicit(&team->num_meetings, memory_order_acquire) == before; spins++)
    pause_briefly(spins);
}

/* Has all members run ``work``, or the caller ``alone``; returns when they are done. */
static void together(Team *team, int alone, Work work, const void *what) {
  team->size = alone ? 1 : team->num_started + 1;
  if (team->size > 1) {
    pthread_mutex_lock(&team->lock);
    team->work = work;
    team->what = what;
    atomic_fetch_add(&team->num_calls, 1);
    if (team->num_asleep) pthread_cond_broadcast(&team->called);
    pthread_mutex_unlock(&team->lock);
  }
  work(team, 0, what);
  meet(team);
}

static void *be_member(void *of) {
  Team *team = of;
  int64_t member = atomic_fetch_add(&team->num_members, 1) + 1;
  for (int64_t done = 0;; done++) {
    for (int64_t spins = 0; spins < SPINS && atomic_load(&team->num_calls) == done; spins++) pause_briefly(spins);
    if (atomic_load(&team->num_calls) == done) {
      pthread_mutex_lock(&team->lock);
      team->num_asleep++;
      while (atomic_load(&team->num_calls) == done) pthread_cond_wait(&team->called, &team->lock);
      team->num_asleep--;
      pthread_mutex_unlock(&team->lock);
    }
    if (team->ends) return NULL;
    team->work(team, member, team->what);
    meet(team);
  }
}

/* Ends the threads, between two passes. */
void adasd_team_end(Team *team) {
  if (!team) return;
  pthread_mutex_lock(&team->lock);
  team->ends = 1;
  atomic_fetch_add(&team->num_calls, 1);
  pthread_cond_broadcast(&team->called);
  pthread_mutex_unlock(&team->lock);
  for (int64_t i = 0; i < team->num_started; i++) pthread_join(team->threads[i], NULL);
  pthread_cond_destroy(&team->called);
  pthread_mutex_destroy(&team->lock);
  free(team->threads);
  free(team);
}

/* A team of ``size`` members; NULL if the system has no room for it. Signals are left to other threads. */
Team *adasd_team(int64_t size) {
  Team *team = calloc(1, sizeof(Team));
  if (!team) return NULL;
  team->size = size;
  team->threads = calloc(size, sizeof(pthread_t));
  pthread_mutex_init(&team->lock, NULL);
  pthread_cond_init(&team->called, NULL);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (team->threads && team->num_started + 1 < size &&
         !pthread_create(&team->threads[team->num_started], NULL, be_member, team))
    team->num_started++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (team->num_started + 1 == size) return team;
  adasd_team_end(team);
  return NULL;
}

#endif
