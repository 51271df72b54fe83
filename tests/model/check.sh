#!/usr/bin/env bash
# Searches all states of one model with spin.
#
#   tests/model/check.sh --list               every "MODEL" and "MODEL DEFINE" there is
#   tests/model/check.sh MODEL                nothing may be found, in a search that is complete
#   tests/model/check.sh MODEL VARIANT_NAME   the same, with other numbers of things
#   tests/model/check.sh MODEL MUTANT_NAME    the model with that error in it: it must be found
#   TRAIL=1 tests/model/check.sh ...          prints how what was found comes about
#
# Works in build/model/MODEL.DEFINE. A second or two, and half a GiB at most.

set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

list() {
  local source model
  for source in tests/model/*.pml; do
    model=$(basename "$source" .pml)
    echo "$model"
    grep -o -w -E '(VARIANT|MUTANT)_[A-Z_]+' "$source" | LC_ALL=C sort -ru | sed "s/^/$model /"
  done
}

[ "${1:-}" != --list ] || { list && exit; }
model=${1:?which model?} define=${2:-}
list | grep -x "$model${define:+ $define}" >/dev/null || {
  echo "no model '$*': see --list" >&2
  exit 2
}

dir=build/model/$model${define:+.$define}
rm -rf "$dir" && mkdir -p "$dir" && cp "tests/model/$model.pml" "$dir" && cd "$dir" || exit 1

# Compiling takes longer than most searches: what is found early needs no optimizer.
optimize=-O1
[[ $define != MUTANT_* ]] || optimize=-O0
spin -a ${define:+"-D$define"} "$model.pml" >spin.log 2>&1 &&
  gcc -w $optimize -DSAFETY -DMEMLIM=1024 -o pan pan.c >gcc.log 2>&1 || {
  cat spin.log gcc.log 2>/dev/null
  exit 1
}
./pan -m200000 -w20 >pan.log 2>&1

states=$(awk '/states, stored/ { print $1 }' pan.log)
found=$(sed -n -E 's/^pan:1: (assertion violated|invalid end state)/\1/p' pan.log)
incomplete=$(grep -E 'max search depth too small|Search not completed|MEMLIM|out of memory' pan.log)
if [[ $define == MUTANT_* ]]; then
  grep -q 'errors: 1$' pan.log && [ -n "$found" ]
  rc=$?
else
  grep -q 'errors: 0$' pan.log && [ -z "$incomplete" ]
  rc=$?
fi
echo "$model${define:+ $define}: ${states:-no} states, ${found:-nothing} found" | cut -c1-200
[ $rc -eq 0 ] || grep -v '^$' pan.log | head -n 20
[ -z "${TRAIL:-}" ] || [ ! -f "$model.pml.trail" ] ||
  spin ${define:+"-D$define"} -t -p -g "$model.pml"
exit $rc
