package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestUnlock(t *testing.T) {
	s := apitest.NewSwarm()
	s.Active, s.Autolock = true, true
	h := handler(apitest.NewEngine(), s)
	ask := func(method, path, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	if code, body := ask("GET", "/v1.56/swarm/unlockkey", ""); code != http.StatusOK || body != `{"UnlockKey":"`+apitest.UnlockKeys[0]+`"}` {
		t.Errorf("the key: %d %s", code, body)
	}
	s.Locked = true
	for _, c := range []struct {
		name, key string
		code      int
		text      string
	}{
		{"what is no key", "open sesame", http.StatusBadRequest, "invalid key string"},
		{"another key", apitest.UnlockKeys[1], http.StatusUnauthorized, "swarm could not be unlocked: invalid key provided"},
		{"the key", apitest.UnlockKeys[0], http.StatusOK, ""},
		{"the key again", apitest.UnlockKeys[0], http.StatusConflict, "swarm is not locked"},
	} {
		if code, body := ask("POST", "/v1.56/swarm/unlock", `{"UnlockKey":"`+c.key+`"}`); code != c.code || !strings.Contains(body, c.text) {
			t.Errorf("%s: %d %s", c.name, code, body)
		}
	}
}
