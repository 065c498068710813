/* Chooses the mode that the command in the image names. */
#include "bare.h"

/* One 4 KiB request after another, with interrupts, at scattered places, as the benchmark and the exit counts want it. */
void mode_bench(void)
{
    ata_init();
    struct ata_request request = { .count = 8, .buffer = DATA_BUFFER };
    request.transfer = argument_is("op", "dma-read") || argument_is("op", "dma-write") ? DMA : PIO_MULTIPLE;
    request.write = argument_is("op", "dma-write") || argument_is("op", "pio-write");
    u32 count = argument("count", 1000), slots = (u32)(disk.sectors28 / 8), slot = 0;
    /* Every page is there before the clock starts. */
    fill(DATA_BUFFER, 0xa5, 4096);
    print("bench begin\n");
    mark('A');
    u64 began = rdtsc();
    for (u32 i = 0; i < count; i++) {
        request.lba = (u64)slot * 8;
        slot += 7919;
        if (slot >= slots)
            slot %= slots;
        ata_must(&request);
    }
    u32 micros = micros_since(began);
    mark('a');
    print("bench requests %u micros %u\n", count, micros);
}

static volatile u32 ap_counter, ap_id;

#define LAPIC(offset) (*(volatile u32 *)(0xfee00000ul + (offset)))
#define TRAMPOLINE 0x70000u

void ap_main(void)
{
    ap_id = LAPIC(0x20) >> 24;
    for (;;)
        ap_counter++;
}

static void icr(u32 value)
{
    LAPIC(0x310) = 0;
    LAPIC(0x300) = value;
    while (LAPIC(0x300) & 1 << 12)
        ;
}

static void pause_millis(u32 millis)
{
    u64 deadline = after_millis(millis);
    while (rdtsc() < deadline)
        __asm__ volatile("pause");
}

/* Starts the second processor by INIT and SIPI; both count at the same time. */
void mode_smp(void)
{
    extern const u8 ap_start[], ap_end[];
    u8 *to = (u8 *)(u64)TRAMPOLINE;
    for (const u8 *from = ap_start; from < ap_end; from++)
        *to++ = *from;
    LAPIC(0xf0) = LAPIC(0xf0) | 0x100;
    icr(0x000c4500);
    pause_millis(10);
    icr(0x000c4600 | TRAMPOLINE >> 12);
    for (u32 wait = 0; wait < 2000 && !ap_counter; wait++)
        pause_millis(1);
    if (!ap_counter)
        fail("the second processor does not run");
    u32 mine = 0, before = ap_counter;
    u64 deadline = after_millis(200);
    while (rdtsc() < deadline)
        mine++;
    u32 theirs = ap_counter - before;
    if (!theirs)
        fail("the second processor stopped");
    print("smp bsp %u ap %u counted %u and %u\n", LAPIC(0x20) >> 24, ap_id, mine, theirs);
}

/* Halts, but for IRQ 0 at 18.2 Hz unless "ticks=0"; for measuring an idle machine. */
void mode_idle(void)
{
    outb(0x43, 0x34);
    outb(0x40, 0);
    outb(0x40, 0);
    if (argument("ticks", 1))
        unmask_irq(0);
    print("idle\n");
    for (u32 left = argument("count", 0xffffffffu); left; left--)
        halt_for_irq();
    print("idle over\n");
}

void main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } modes[] = {
        { "verify", mode_verify }, { "limits", mode_limits }, { "bench", mode_bench }, { "cd", mode_cd },
        { "writeloop", mode_write_loop }, { "media", mode_media }, { "smp", mode_smp }, { "idle", mode_idle },
    };
    platform_init();
    print("bare guest: %s\n", command);
    for (u32 i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (argument_is("mode", modes[i].name)) {
            modes[i].run();
            print("done\n");
            power_off();
        }
    print("no such mode\n");
    power_off();
}
