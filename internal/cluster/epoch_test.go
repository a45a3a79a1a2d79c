package cluster

import (
	"testing"

	"pgregory.net/rapid"
)

func TestEpochs(t *testing.T) {
	if a, b := NextEpoch(1, 7), NextEpoch(1, 8); a == b || EpochNumber(a) != 2 || EpochNumber(b) != 2 || FormatEpoch(a) != "2-00000007" || FormatEpoch(1) != "1" {
		t.Errorf("two cuts of one history: %s and %s", FormatEpoch(a), FormatEpoch(b))
	}
	rapid.Check(t, func(t *rapid.T) {
		epoch := rapid.Uint64Range(0, 3).Draw(t, "first")
		for n := range rapid.IntRange(1, 5).Draw(t, "cuts") {
			next := NextEpoch(epoch, rapid.Uint32().Draw(t, "cut"))
			if next <= epoch || EpochNumber(next) != EpochNumber(epoch)+1 {
				t.Fatalf("cut %d leads from %s to %s", n, FormatEpoch(epoch), FormatEpoch(next))
			}
			epoch = next
		}
	})
}
