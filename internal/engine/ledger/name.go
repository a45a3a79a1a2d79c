package ledger

import "math/rand/v2"

// inventName makes up a name for a container that was given none: two words, as Docker does.
func inventName() string {
	manner := []string{
		"amber", "bold", "brisk", "calm", "clever", "coral", "deep", "eager", "early", "fleet", "gentle", "glad",
		"golden", "keen", "kind", "lively", "lucky", "merry", "nimble", "patient", "placid", "proud", "quick",
		"quiet", "silver", "sleek", "sturdy", "sunny", "tidal", "wandering",
	}
	fish := []string{
		"anchovy", "barbel", "bream", "burbot", "char", "cod", "dace", "dory", "eel", "flounder", "goby", "grayling",
		"gurnard", "haddock", "hake", "halibut", "herring", "ling", "mackerel", "minnow", "mullet", "perch", "pike",
		"plaice", "pollock", "roach", "salmon", "sardine", "smelt", "sprat", "tench", "trout", "tuna", "turbot",
	}
	return manner[rand.IntN(len(manner))] + "_" + fish[rand.IntN(len(fish))]
}
