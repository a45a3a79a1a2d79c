package scale_test

import (
	"io"
	"testing"

	"shoal.dev/shoal/bench"
	"shoal.dev/shoal/bench/scale"
)

// Every shape, made small, ends as it should, on both kinds of log.
func TestPlanning(t *testing.T) {
	r := &bench.Report{}
	if err := scale.Planning(t.Context(), scale.Options{Runs: 1, Scale: 200, Out: io.Discard}, r); err != nil {
		t.Fatal(err)
	}
	if len(r.Figures) == 0 {
		t.Error("nothing was measured")
	}
}
