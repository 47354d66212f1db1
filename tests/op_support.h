// What works where: the declared matrix of function x dtype x device x layout, and the driver that
// holds the library to it. A cell works (values and gradients equal to the reference) or throws an
// error in the house form; test_op_support.cpp and cuda/test_cuda_op_table.cpp run every cell.
#pragma once

#include <string>
#include <vector>

#include "tests/op_table.h"

namespace nibble::testing {

// U4x2 is missing: packed codes belong to QTensor, and no function here takes them.
inline constexpr DType kDTypes[] = {DType::F64, DType::F32, DType::BF16, DType::I32,
                                    DType::I8,  DType::U8,  DType::E4M3, DType::E5M2};

// How an argument lies in its storage.
enum class Placement {
  Dense,
  Offset,      // contiguous, not at the storage's start
  Strided,     // every other element
  Transposed,  // the last two dimensions swapped in memory; a vector is Strided
  Expanded,    // stride 0: the first entry along dimension 0, repeated
};
inline constexpr Placement kPlacements[] = {Placement::Dense, Placement::Offset, Placement::Strided,
                                            Placement::Transposed, Placement::Expanded};
std::string to_string(Placement placement);

// One line of the matrix. Dtypes and placements are words separated by spaces. Meta is the CPU's
// column: the same checks, no kernel. Inputs may have every placement.
struct Support {
  std::string functions;                  // names of the op table
  std::string values_cpu, gradients_cpu;  // dtypes in which a result, a gradient is computed
  std::string values_cuda, gradients_cuda;
  std::string parameters = "dense offset strided transposed expanded";  // their placements
  bool mixed_parameters = false;  // parameters of another float dtype than the inputs
};
const std::vector<Support>& support_matrix();
// The line of a function; nullptr when the matrix doesn't name it.
const Support* support_of(const std::string& function);

// A cell: how a row's arguments are made.
struct Cell {
  DType dtype = DType::F32;
  Device device = kCpu;
  Placement inputs = Placement::Dense, parameters = Placement::Dense;
};
std::string to_string(const Cell& cell);

// "" when the row does in the cell what `support` declares; else what is wrong: it works though
// declared unsupported, throws though declared supported, differs from the reference, or throws
// something else than an Error of the form `op: what: got … expected …`.
std::string check_cell(const OpRow& row, const Support& support, const Cell& cell);
// The same for arguments that don't fit one another: a second input, then parameters, of another
// dtype than the first input, or on `other`, another device.
std::vector<std::string> check_mixtures(const OpRow& row, const Support& support, Device device,
                                        Device other);
// Every cell and mixture of a device, of all rows: "", or the first problems, a line each.
std::string check_support(Device device, Device other);

// Whether a message reads `op: …got …`.
bool has_house_form(const std::string& message);

}  // namespace nibble::testing
