#pragma once

#include <vector>

#include "client/tool/console_report.h"
#include "client/tool/styled_line.h"

namespace sparseserve {

struct TopView {
  int columns = 80;
  bool since_start = false;  // else of the last minute
};

// The screen of `sparseserve top`, with the figures of the server's page. Lines
// fit into 80 columns; wider views have longer plots.
std::vector<StyledLine> TopText(const ConsoleReport& report,
                                const TopView& view);

}  // namespace sparseserve
