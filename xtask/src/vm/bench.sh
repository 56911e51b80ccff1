# SPDX-License-Identifier: Apache-2.0
# The step of a benchmark, whose options these are.

step bench 1500 "$memory/programs/nsm-bench" "$@" --programs "$memory/programs" --json "$shared/figures.json"
