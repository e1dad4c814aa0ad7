# The C++ tests without Python: make -f csrc/tests/tests.mk OUT=folder MODE="flags" [ARCH=aarch64 CXX=... RUN=qemu...] run
ARCH ?= $(shell uname -m)
OUT ?= build/cpp-test
MODE ?= -O2
RUN ?=
ARGS ?=
COMMON := -std=c++17 -ffp-contract=off -Wall -Wextra $(MODE)
AVX512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -Wno-uninitialized -Wno-maybe-uninitialized
FLAGS_avx512bf16 := $(AVX512) -mavx512bf16
FLAGS_avx512 := $(AVX512)
FLAGS_avx2 := -mavx2 -mfma
ifeq ($(ARCH),x86_64)
WANTED := avx512bf16 avx512 avx2 scalar
else ifeq ($(ARCH),aarch64)
WANTED := neon scalar
else
WANTED := scalar
endif
knows = $(shell echo 'int main() { return 0; }' | $(CXX) -x c++ -Werror $(FLAGS_$(1)) -c - -o /dev/null 2>/dev/null && echo $(1))
ISAS := $(foreach isa,$(WANTED),$(call knows,$(isa)))
HAVE := $(foreach isa,$(ISAS),-DLORID_HAVE_$(shell echo $(isa) | tr a-z A-Z)=1)
BASELINE := $(filter-out csrc/module.cpp csrc/bind_%.cpp,$(wildcard csrc/*.cpp csrc/ops/*.cpp csrc/tests/*.cpp))
OBJECTS := $(BASELINE:%.cpp=$(OUT)/%.o) $(ISAS:%=$(OUT)/csrc/isa/%.o)
HEADERS := $(wildcard csrc/*.h csrc/*/*.h)

run: $(OUT)/ops_test
	$(RUN) $(OUT)/ops_test $(ARGS)

$(OUT)/ops_test: $(OBJECTS)
	$(CXX) $(COMMON) $^ -pthread -o $@

$(OUT)/csrc/isa/%.o: csrc/isa/%.cpp $(HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(COMMON) $(FLAGS_$*) -c $< -o $@

$(OUT)/%.o: %.cpp $(HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(COMMON) $(HAVE) -c $< -o $@
