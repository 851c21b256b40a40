/* Runs on the host: prints the rate of the time stamp counter in kHz, which a guest under TCG sees unchanged. */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

int main(void)
{
    struct timespec pause = {.tv_nsec = 50000000};
    double start = milliseconds();
    unsigned long long ticks = __rdtsc();

    nanosleep(&pause, NULL);
    ticks = __rdtsc() - ticks;
    printf("%.0f\n", ticks / (milliseconds() - start));
    return 0;
}
