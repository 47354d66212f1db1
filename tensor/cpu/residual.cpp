// The definition: one kernel after the other.
#include "tensor/residual.h"

namespace nibble::cpu {

void add_layer_norm(Tensor& sum, Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x,
                    const Tensor& residual, const Tensor& gamma, const Tensor& beta,
                    double epsilon) {
  add(sum, x, residual);
  layer_norm(y, mean, rstd, sum, gamma, beta, epsilon);
}

void add_layer_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy,
                             const Tensor& x, const Tensor& gamma, const Tensor& mean,
                             const Tensor& rstd, const Tensor& before, bool accumulate) {
  for (Tensor* sum : {&dgamma, &dbeta})
    if (!accumulate && sum->defined()) fill(*sum, 0);
  layer_norm_backward(dx, dgamma, dbeta, dy, x, gamma, mean, rstd);
  add(dx, before, dx);
}

}  // namespace nibble::cpu
