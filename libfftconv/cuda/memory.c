/* Device memory and streams, for callers that do not use the CUDA runtime themselves. */
#include "engine.h"

/* Stores the machine, and its number of devices, which is at least one. */
static int machine_of(const struct cuda_machine **machine, int *devices)
{
    *machine = cuda_machine();
    *devices = *machine ? (*machine)->devices() : 0;
    if (!*machine)
        return fail(FFTCONV_STATUS_UNSUPPORTED, "this library was built without CUDA");
    if (*devices < 1)
        return fail(FFTCONV_STATUS_UNSUPPORTED, "no CUDA device was found, or no driver for one");
    return FFTCONV_STATUS_OK;
}

int cuda_enter(const struct cuda_machine **machine, int device, int *before)
{
    int devices, status = machine_of(machine, &devices);
    if (status)
        return status;
    if (device < 0 || device >= devices)
        return fail(FFTCONV_STATUS_INVALID, "device_index is %d, must be 0 ... %d", device,
                    devices - 1);
    return (*machine)->enter(device, before);
}

int fftconv_cuda_allocate(void **memory, int64_t bytes, int device)
{
    const struct cuda_machine *m;
    int before, status;
    if (!memory)
        return fail(FFTCONV_STATUS_INVALID,
                    "memory is NULL, must point at a place for the pointer");
    *memory = NULL;
    if (bytes < 1)
        return fail(FFTCONV_STATUS_INVALID, "bytes is %lld, must be at least 1", (long long)bytes);
    if ((status = cuda_enter(&m, device, &before)))
        return status;
    status = m->allocate(memory, bytes);
    m->leave(device, before);
    return status;
}

void fftconv_cuda_release(void *memory, int device)
{
    const struct cuda_machine *m;
    int before;
    if (memory && !cuda_enter(&m, device, &before)) {
        m->release(memory);
        m->leave(device, before);
    }
}

int fftconv_cuda_copy(void *to, const void *from, int64_t bytes, int device, void *stream)
{
    const struct cuda_machine *m;
    int before, status;
    if (!to || !from || bytes < 0)
        return fail(FFTCONV_STATUS_INVALID, "to, from or bytes is NULL or negative: to and from "
                                            "must point at memory, and bytes must "
                                            "be at least 0");
    if ((status = cuda_enter(&m, device, &before)))
        return status;
    status = m->copy(to, from, bytes, stream);
    m->leave(device, before);
    return status;
}

int fftconv_cuda_device_of(const void *memory, int *device)
{
    const struct cuda_machine *m;
    int devices, status;
    if (!memory || !device)
        return fail(FFTCONV_STATUS_INVALID, "%s is NULL, must point at %s",
                    memory ? "device_index" : "memory",
                    memory ? "a place for the device's number" : "memory of a device");
    /* The device is not entered for this: that would create a context on one that nobody uses. */
    status = machine_of(&m, &devices);
    return status ? status : m->device_of(memory, device);
}

int fftconv_cuda_wait(int device, void *stream, void *other)
{
    const struct cuda_machine *m;
    int before, status = cuda_enter(&m, device, &before);
    if (status)
        return status;
    status = m->wait(stream, other);
    m->leave(device, before);
    return status;
}

int fftconv_cuda_synchronize(int device, void *stream)
{
    const struct cuda_machine *m;
    int before, status = cuda_enter(&m, device, &before);
    if (status)
        return status;
    status = m->synchronize(stream);
    m->leave(device, before);
    return status;
}
