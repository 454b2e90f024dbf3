/* What stands in the place of the kernels in a build without CUDA: there is no machine. */
#include "engine.h"

const struct cuda_machine *cuda_machine(void) { return NULL; }

const struct cuda_shape *cuda_shape_of(int single, int i)
{
    (void)single, (void)i;
    return NULL;
}
