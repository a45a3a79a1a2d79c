package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/engine/ledger"
)

// loginTime bounds a login, as Docker does.
const loginTime = 15 * time.Second

// Login implements engine.Registries.
func (e *Engine) Login(ctx context.Context, auth *registry.AuthConfig) (string, error) {
	host, err := loginHost(auth.ServerAddress)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	token := ""
	h, err := e.registries.own(host, auth, func(_ context.Context, t string, _ *http.Request) { token = t })
	if err != nil {
		return "", err
	}
	at := h.Scheme + "://" + h.Host + h.Path + "/"
	resp, err := e.registries.do(ctx, h, "/")
	if err != nil {
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return "", context.Cause(ctx)
		}
		if refused(err) {
			why, _ := registrySays(err)
			if why == "" {
				why = err.Error()
			}
			return "", ledger.Errorf(errdefs.ErrUnauthenticated, "Get %q: unauthorized: %s", at, why)
		}
		return "", ledger.Errorf(errdefs.ErrUnavailable, "%s", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		class := error(errdefs.ErrUnavailable)
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			class = errdefs.ErrUnauthenticated
		}
		return "", ledger.Errorf(class, "login attempt to %s failed with status: %d %s", at, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return token, nil
}

// loginHost is the registry that a server address, as clients keep it, means.
func loginHost(address string) (string, error) {
	if address == "" {
		return dockerIO, nil
	}
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", ledger.Errorf(errdefs.ErrInvalidArgument, "unable to parse server address: %q", address)
	}
	switch u.Host {
	case "index.docker.io", "registry-1.docker.io", dockerIO:
		return dockerIO, nil
	}
	return u.Host, nil
}

// maxTags is how many tags of a repository are pulled at once; a registry that offers more is not believed.
const maxTags = 10000

// tags asks a registry for all tags of a repository.
func (r *registries) tags(ctx context.Context, name reference.Named, auth *registry.AuthConfig) ([]string, error) {
	h, err := r.own(reference.Domain(name), auth, nil)
	if err != nil {
		return nil, err
	}
	repo := reference.Path(name)
	ctx = docker.WithScope(ctx, "repository:"+repo+":pull")
	var all []string
	for path := "/" + repo + "/tags/list?n=1000"; path != ""; {
		resp, err := r.do(ctx, h, path)
		if err != nil {
			return nil, err
		}
		var page struct{ Tags []string }
		path = ""
		if resp.StatusCode == http.StatusOK {
			if err = json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&page); err == nil && len(page.Tags) > 0 {
				path = nextPage(resp, h.Path)
			}
		} else {
			err = badStatus(resp)
			if resp.StatusCode == http.StatusNotFound {
				err = errdefs.ErrNotFound.WithMessage("no such repository")
			}
		}
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if all = append(all, page.Tags...); len(all) > maxTags {
			return nil, ledger.Errorf(errdefs.ErrResourceExhausted, "the repository %s has more than %d tags", name.Name(), maxTags)
		}
	}
	return all, nil
}

// nextPage is the path of the page after this one, "" if it was the last. Only the same registry is followed.
func nextPage(resp *http.Response, prefix string) string {
	link, _, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	if !ok {
		return ""
	}
	u, err := resp.Request.URL.Parse(link)
	if err != nil || u.Host != resp.Request.URL.Host {
		return ""
	}
	rest, ok := strings.CutPrefix(u.RequestURI(), prefix)
	if !ok {
		return ""
	}
	return rest
}
