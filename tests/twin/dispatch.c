/* The twin's dispatch: every queue is serial and has one thread; semaphores.
 *
 * Left out of the build (REAL_DISPATCH) where Apple's own libdispatch is linked instead. */
#include "twin.h"
#include <Block.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Both kinds start with the reference count that dispatch_release finds. */
struct item { dispatch_block_t block; struct item *next; };
struct dispatch_queue_s {
  atomic_int references;
  pthread_mutex_t lock;
  pthread_cond_t filled;
  struct item *head, **tail;
};
struct dispatch_semaphore_s {
  atomic_int references;
  pthread_mutex_t lock;
  pthread_cond_t raised;
  intptr_t value;
};

static void *work(void *argument) {
  struct dispatch_queue_s *queue = argument;
  for (;;) {
    pthread_mutex_lock(&queue->lock);
    while (!queue->head) pthread_cond_wait(&queue->filled, &queue->lock);
    struct item *item = queue->head;
    if (!(queue->head = item->next)) queue->tail = &queue->head;
    pthread_mutex_unlock(&queue->lock);
    item->block();
    Block_release(item->block);
    free(item);
  }
  return NULL;
}

EXPORT dispatch_queue_t dispatch_queue_create(const char *label, void *attr) {
  struct dispatch_queue_s *queue = calloc(1, sizeof *queue);
  queue->references = 1;
  queue->tail = &queue->head;
  pthread_mutex_init(&queue->lock, NULL);
  pthread_cond_init(&queue->filled, NULL);
  pthread_t thread;
  pthread_create(&thread, NULL, work, queue);
  pthread_detach(thread);
  return queue;
}

EXPORT void dispatch_async(dispatch_queue_t queue, dispatch_block_t block) {
  struct item *item = calloc(1, sizeof *item);
  item->block = Block_copy(block);
  pthread_mutex_lock(&queue->lock);
  *queue->tail = item;
  queue->tail = &item->next;
  pthread_cond_signal(&queue->filled);
  pthread_mutex_unlock(&queue->lock);
}

EXPORT void dispatch_release(void *object) {
  if (--((struct dispatch_queue_s *)object)->references < 0) {
    fprintf(stderr, "twin: dispatch misuse: object released once too often\n");
    abort();
  }
}

EXPORT dispatch_semaphore_t dispatch_semaphore_create(intptr_t value) {
  struct dispatch_semaphore_s *semaphore = calloc(1, sizeof *semaphore);
  semaphore->references = 1;
  semaphore->value = value;
  pthread_mutex_init(&semaphore->lock, NULL);
  pthread_cond_init(&semaphore->raised, NULL);
  return semaphore;
}

EXPORT intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t forever) {
  pthread_mutex_lock(&semaphore->lock);
  while (semaphore->value <= 0) pthread_cond_wait(&semaphore->raised, &semaphore->lock);
  semaphore->value--;
  pthread_mutex_unlock(&semaphore->lock);
  return 0;
}

EXPORT intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore) {
  pthread_mutex_lock(&semaphore->lock);
  semaphore->value++;
  pthread_cond_signal(&semaphore->raised);
  pthread_mutex_unlock(&semaphore->lock);
  return 0;
}
