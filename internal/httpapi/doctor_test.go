package httpapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"shoal.dev/shoal/internal/doctor"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestDoctor(t *testing.T) {
	d := &apitest.Doctor{Report: doctor.Report{Findings: []doctor.Finding{{Check: "clock", Level: doctor.Warning, Found: "late", Remedy: "wait"}}}}
	h := httpapi.New(httpapi.Config{Doctor: d})
	w := ask(t, h, "GET", "/shoal/v1/doctor?peer=node2&peer=198.51.100.1:2377", "", "")
	var got doctor.Report
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || !slices.Equal(got.Findings, d.Report.Findings) {
		t.Errorf("%d %v: %s", w.Code, err, w.Body)
	}
	if want := []string{"node2", "198.51.100.1:2377"}; !slices.Equal(d.Peers, want) {
		t.Errorf("peers %q, want %q", d.Peers, want)
	}
	for name, query := range map[string]string{
		"no host": "?peer=:2377", "no port": "?peer=a:", "a port that is none": "?peer=a:b", "port 0": "?peer=a:0", "too large a port": "?peer=a:70000",
		"nothing": "?peer=", "too many": "?peer=a" + strings.Repeat("&peer=a", 64),
	} {
		if w := ask(t, h, "GET", "/shoal/v1/doctor"+query, "", ""); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := ask(t, httpapi.New(httpapi.Config{}), "GET", "/shoal/v1/doctor", "", ""); w.Code != http.StatusNotImplemented {
		t.Errorf("without a backend: %d", w.Code)
	}
}
