package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine/ledger"
)

// pullError puts into Docker's words why an image did not come.
func pullError(name reference.Named, want *ocispec.Platform, err error) error {
	ref, text := reference.FamiliarString(name), err.Error()
	switch {
	case errors.Is(err, errStalled):
		return ledger.Errorf(errdefs.ErrUnavailable, "cannot pull %s: %s", ref, text)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errdefs.IsNotFound(err) && strings.Contains(text, "platform"):
		p := platforms.DefaultString()
		if want != nil {
			p = platforms.FormatAll(*want)
		}
		return ledger.Errorf(errdefs.ErrNotFound, "no matching manifest for %s in the manifest list entries: %s", p, text)
	case refused(err):
		return ledger.Errorf(errdefs.ErrNotFound, "pull access denied for %s, repository does not exist or may require 'docker login': %s",
			reference.FamiliarName(name), text)
	}
	if answer := registryAnswer(err); answer != nil {
		if !errdefs.IsUnknown(answer) {
			return answer
		}
		text = answer.Error()
	}
	if errdefs.IsNotFound(err) {
		return ledger.Errorf(errdefs.ErrNotFound, "manifest for %s not found: manifest unknown", ref)
	}
	return ledger.Errorf(errdefs.ErrUnavailable, "cannot pull %s: %s", ref, text)
}

// pushError puts into Docker's words why an image did not go.
func pushError(name reference.Named, err error) error {
	switch {
	case errors.Is(err, errStalled):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case refused(err):
		const words = "push access denied, repository does not exist or may require authorization: "
		return ledger.Errorf(errdefs.ErrUnauthenticated, "%s%s", words, strings.TrimPrefix(err.Error(), words))
	default:
		if answer := registryAnswer(err); answer != nil {
			return answer
		}
	}
	return ledger.Errorf(errdefs.ErrUnavailable, "cannot push %s: %s", reference.FamiliarString(name), err)
}

// refused says whether a registry did not accept the credentials, or wants some.
func refused(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden) {
		return true
	}
	return errors.Is(err, docker.ErrInvalidAuthorization) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) ||
		strings.Contains(err.Error(), "401 Unauthorized")
}

// registryAnswer is the error that a registry gave in the form of the distribution specification; nil if it gave none.
func registryAnswer(err error) error {
	words, class := registrySays(err)
	if words == "" {
		return nil
	}
	return ledger.Errorf(class, "error from registry: %s", words)
}

// registrySays is what a registry, or its token server, said in that form.
func registrySays(err error) (said string, class error) {
	var list docker.Errors
	if !errors.As(err, &list) {
		var status remoteerrors.ErrUnexpectedStatus
		var one docker.Error
		switch {
		case errors.As(err, &status):
			if json.Unmarshal(status.Body, &list) != nil {
				return "", nil
			}
		case errors.As(err, &one):
			list = docker.Errors{one}
		}
	}
	var words []string
	class = errdefs.ErrUnknown
	for _, entry := range list {
		var d docker.Error
		if !errors.As(entry, &d) {
			words = append(words, entry.Error())
			continue
		}
		message := d.Message
		if message == "" {
			message = d.Code.Message()
		}
		if detail, ok := d.Detail.(string); ok {
			message += " - " + detail
		}
		words = append(words, message)
		switch d.Code {
		case docker.ErrorCodeUnsupported:
			class = errdefs.ErrNotImplemented
		case docker.ErrorCodeUnauthorized:
			class = errdefs.ErrUnauthenticated
		case docker.ErrorCodeDenied:
			class = errdefs.ErrPermissionDenied
		case docker.ErrorCodeUnavailable:
			class = errdefs.ErrUnavailable
		case docker.ErrorCodeTooManyRequests:
			class = errdefs.ErrResourceExhausted
		}
	}
	return strings.Join(slices.Compact(words), "\n"), class
}

// badStatus is the error for an answer that is no success.
func badStatus(r *http.Response) error {
	return fmt.Errorf("%w", remoteerrors.NewUnexpectedStatusErr(r))
}
