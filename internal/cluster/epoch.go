package cluster

import "fmt"

// cutBits are those of an epoch that tell two cuts of one history apart.
const cutBits = 32

// NextEpoch is the epoch after old. Its high half counts; its low half is the cut's own, a random number: two survivors of
// a lost quorum may each cut the history that they share, and versions of the one say nothing about those of the other. Of
// two such epochs the higher counts, as everywhere.
func NextEpoch(old uint64, cut uint32) uint64 { return (EpochNumber(old)+1)<<cutBits | uint64(cut) }

// EpochNumber says how many cuts led to the epoch, plus one: the first epoch of a swarm is 1.
func EpochNumber(epoch uint64) uint64 {
	if n := epoch >> cutBits; n > 0 {
		return n
	}
	return epoch
}

// FormatEpoch is how an epoch is called in a message.
func FormatEpoch(epoch uint64) string {
	if epoch>>cutBits == 0 {
		return fmt.Sprint(epoch)
	}
	return fmt.Sprintf("%d-%08x", EpochNumber(epoch), uint32(epoch))
}
