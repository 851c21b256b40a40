# The compiled half of octets.py: the same functions over the same ranges, in C. A .pxd without a .py
# of its name, so it is inlined into every module that cimports it.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* RFC 1071 section 2(B): the sum does not depend on the byte order it is taken in, but for a swap at
       the end, so it is taken in the machine's own, 8 bytes a step in two chains. */
    static unsigned int softnet_sum(const unsigned char *at, size_t size)
    {
        uint64_t even = 0, odd = 0, word, next;
        for (; size >= 16; size -= 16, at += 16) {
            memcpy(&word, at, 8);
            memcpy(&next, at + 8, 8);
            even += word;
            even += even < word;
            odd += next;
            odd += odd < next;
        }
        for (; size > 0; at += next, size -= (size_t)next) {
            next = size < 8 ? size : 8;
            word = 0;
            memcpy(&word, at, (size_t)next);
            even += word;
            even += even < word;
        }
        even += odd;
        even += even < odd;
        even = (even & 0xffffffffu) + (even >> 32);
        even = (even & 0xffff) + (even >> 16 & 0xffff) + (even >> 32);
        even = (even & 0xffff) + (even >> 16);
        even = (even & 0xffff) + (even >> 16);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        return (unsigned int)even;
    #else
        return (unsigned int)((even & 0xff) << 8 | even >> 8);
    #endif
    }
    """
    unsigned int softnet_sum(const unsigned char *at, size_t size) nogil
    void *memcpy(void *target, const void *source, size_t size) nogil
    int memcmp(const void *one, const void *other, size_t size) nogil


cdef inline int _check(size_t whole, size_t start, size_t size) except -1:
    if start > whole or size > whole - start:
        raise IndexError(f"{size} bytes at {start} of {whole}")
    return 0


cdef inline unsigned int sum_of(unsigned char[::1] data, size_t start, size_t size) except? 0xFFFFFFFF:
    _check(<size_t>data.shape[0], start, size)
    return softnet_sum(&data[0] + start, size) if size else 0


cdef inline unsigned int fold(unsigned int total) noexcept nogil:
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


cdef inline int copy(
    unsigned char[::1] target, size_t at, unsigned char[::1] source, size_t start, size_t size
) except -1:
    _check(<size_t>target.shape[0], at, size)
    _check(<size_t>source.shape[0], start, size)
    if size:
        memcpy(&target[0] + at, &source[0] + start, size)
    return 0


cdef inline bint same(unsigned char[::1] data, size_t one, size_t other, size_t size) except -1:
    _check(<size_t>data.shape[0], one, size)
    _check(<size_t>data.shape[0], other, size)
    return not size or memcmp(&data[0] + one, &data[0] + other, size) == 0


cdef inline unsigned int load16(unsigned char[::1] data, size_t at) except? 0xFFFFFFFF:
    _check(<size_t>data.shape[0], at, 2)
    return <unsigned int>data[at] << 8 | data[at + 1]


cdef inline unsigned int load32(unsigned char[::1] data, size_t at) except? 0xFFFFFFFF:
    _check(<size_t>data.shape[0], at, 4)
    return (<unsigned int>data[at] << 24 | <unsigned int>data[at + 1] << 16
            | <unsigned int>data[at + 2] << 8 | data[at + 3])


cdef inline int store16(unsigned char[::1] data, size_t at, unsigned int value) except -1:
    _check(<size_t>data.shape[0], at, 2)
    data[at] = <unsigned char>(value >> 8)
    data[at + 1] = <unsigned char>value
    return 0


cdef inline int store32(unsigned char[::1] data, size_t at, unsigned int value) except -1:
    store16(data, at, value >> 16)
    store16(data, at + 2, value)
    return 0
