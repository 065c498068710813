/* Serial port, clocks, interrupts, power: what every mode needs of the board. */
#include "bare.h"

#include <stdarg.h>

#define COM1 0x3f8
#define PM1_CONTROL 0x604
#define PM_TIMER 0x608
#define PM_TIMER_HZ 3579545u
#define DEBUG_PORT 0x402

static u32 tsc_per_micro;

static void put(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        ;
    outb(COM1, (u8)c);
}

static void put_number(u64 value, u32 base, u32 width)
{
    char digits[20];
    u32 count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (count < width)
        digits[count++] = '0';
    while (count)
        put(digits[--count]);
}

/* %s %c %u (u32) %U (u64) %x (u32, 8 digits) %X (u32, as many digits as needed). */
static void print_list(const char *format, va_list list)
{
    for (; *format; format++) {
        if (*format != '%') {
            if (*format == '\n')
                put('\r');
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *text = va_arg(list, const char *); *text; text++)
                put(*text);
            break;
        case 'c': put((char)va_arg(list, int)); break;
        case 'u': put_number(va_arg(list, u32), 10, 1); break;
        case 'U': put_number(va_arg(list, u64), 10, 1); break;
        case 'x': put_number(va_arg(list, u32), 16, 8); break;
        case 'X': put_number(va_arg(list, u32), 16, 1); break;
        default: put('?');
        }
    }
}

void print(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    print_list(format, list);
    va_end(list);
}

void fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    print("FAIL ");
    print_list(format, list);
    print("\n");
    va_end(list);
    power_off();
}

void report_fault(void)
{
    fail("exception %u code %x at %x", (u32)fault_vector, (u32)fault_code, (u32)fault_rip);
}

/* Tells whoever counts accesses where a phase begins and ends. */
void mark(char letter) { outb(DEBUG_PORT, (u8)letter); }

static bool starts(const char *text, const char *prefix, const char **rest)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return false;
    *rest = text;
    return true;
}

static const char *find_argument(const char *key)
{
    const char *at = command, *rest;
    while (*at) {
        if (starts(at, key, &rest) && *rest == '=')
            return rest + 1;
        while (*at && *at != ' ')
            at++;
        while (*at == ' ')
            at++;
    }
    return 0;
}

u32 argument(const char *key, u32 otherwise)
{
    const char *at = find_argument(key);
    if (!at)
        return otherwise;
    u32 value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (u32)(*at - '0');
    return value;
}

bool argument_is(const char *key, const char *value)
{
    const char *at = find_argument(key), *rest;
    return at && starts(at, value, &rest) && (*rest == 0 || *rest == ' ');
}

/* What the compiler may call on its own account, at CPL 0 or 3. */
void *memset(void *into, int value, unsigned long count)
{
    void *at = into;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
    return into;
}

void fill(void *into, u8 value, u32 count)
{
    make_native();
    memset(into, value, count);
    leave_native();
}

void *memcpy(void *into, const void *from, unsigned long count)
{
    void *at = into;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
    return into;
}

u32 crc32(u32 crc, const void *data, u32 count)
{
    static u32 table[256];
    if (!table[1])
        for (u32 i = 0; i < 256; i++) {
            u32 value = i;
            for (u32 bit = 0; bit < 8; bit++)
                value = value & 1 ? value >> 1 ^ 0xedb88320u : value >> 1;
            table[i] = value;
        }
    const u8 *at = data;
    crc = ~crc;
    make_native();
    while (count--)
        crc = crc >> 8 ^ table[(crc ^ *at++) & 0xff];
    leave_native();
    return ~crc;
}

u32 pci_read(u8 device, u8 function, u8 offset)
{
    outl(0xcf8, 0x80000000u | (u32)device << 11 | (u32)function << 8 | (offset & 0xfcu));
    return inl(0xcfc);
}

void pci_write(u8 device, u8 function, u8 offset, u32 value)
{
    outl(0xcf8, 0x80000000u | (u32)device << 11 | (u32)function << 8 | (offset & 0xfcu));
    outl(0xcfc, value);
}

static u32 pm_timer(void) { return inl(PM_TIMER) & 0xffffff; }

/* The TSC against the ACPI PM timer, over a twentieth of a second. */
static void calibrate(void)
{
    u32 begin = pm_timer();
    u64 tsc = rdtsc();
    while (((pm_timer() - begin) & 0xffffff) < PM_TIMER_HZ / 20)
        ;
    tsc_per_micro = (u32)(rdtsc() - tsc) / 50000;
    if (!tsc_per_micro)
        fail("the TSC stands still");
}

u64 after_millis(u32 millis) { return rdtsc() + (u64)tsc_per_micro * 1000 * millis; }

/* Microseconds since then, at most 2^32 (70 minutes). */
u32 micros_since(u64 tsc)
{
    u64 micros = (rdtsc() - tsc) / tsc_per_micro;
    return micros > ~0u ? ~0u : (u32)micros;
}

void power_off(void)
{
    /* Let the last bytes out of the serial port first. */
    while (!(inb(COM1 + 5) & 0x40))
        ;
    outw(PM1_CONTROL, 0x2000);
    for (;;)
        __asm__ volatile("pause");
}

static void gate(u32 vector, void (*handler)(void))
{
    u32 address = (u32)(u64)handler;
    idt[vector].low = 0x00080000u | (address & 0xffffu);
    idt[vector].middle = (address & 0xffff0000u) | 0x8e00u;
    idt[vector].high = 0;
}

static void init_interrupts(void)
{
#define EACH_FAULT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)
#define EACH_IRQ(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define FAULT(n) extern void fault_entry_##n(void); gate(n, fault_entry_##n);
#define IRQ(n) extern void irq_entry_##n(void); gate(32 + n, irq_entry_##n);
    EACH_FAULT(FAULT)
    EACH_IRQ(IRQ)
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, 0x20);
    outb(0xa1, 0x28);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, 0xfb);
    outb(0xa1, 0xff);
}

void unmask_irq(u32 number)
{
    u16 port = number < 8 ? 0x21 : 0xa1;
    outb(port, inb(port) & (u8)~(1u << (number & 7)));
}

void platform_init(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x80);
    outb(COM1, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3);
    outb(COM1 + 2, 1);
    outb(COM1 + 4, 3);
    init_interrupts();
    calibrate();
}
