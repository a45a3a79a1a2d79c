package apitest

import (
	"context"

	"shoal.dev/shoal/internal/engine"
)

func (f *Engine) Restart(ctx context.Context, name string, o engine.StopOptions) error {
	if err := f.Stop(ctx, name, o); err != nil {
		return err
	}
	return f.Start(ctx, name)
}
