package httpapi

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestUnsupportedIsDocumented holds docs/unsupported.md to the table of routes that answer 501.
func TestUnsupportedIsDocumented(t *testing.T) {
	const file = "../../docs/unsupported.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // the reason by method and path
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		reason := strings.TrimSpace(cells[3])
		if reason == "" || strings.TrimSpace(cells[2]) == "" {
			t.Errorf("%s: %s has no reason", file, cells[1])
		}
		documented[strings.Trim(cells[1], " `")] = reason
	}
	var absent []string
	for _, r := range absentRoutes() {
		absent = append(absent, strings.ReplaceAll(r.key(), "*", ""))
	}
	if len(absent) == 0 {
		t.Fatal("the table of absent routes is not read")
	}
	for _, r := range absent {
		if documented[r] == "" {
			t.Errorf("%s answers 501: %s wants a row with the reason", r, file)
		}
	}
	for r := range documented {
		if !slices.Contains(absent, r) {
			t.Errorf("%s is served: remove its row from %s", r, file)
		}
	}
}
