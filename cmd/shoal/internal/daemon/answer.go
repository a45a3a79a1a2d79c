package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/templates"
	"github.com/spf13/cobra"
)

// Read asks as [Ask] does and decodes the answer's JSON, of which at most so many bytes are read, into out. It returns
// the JSON, too. What is old by the daemon's word is said on the standard error.
func Read(ctx context.Context, cli command.Cli, method, path string, most int64, out any) (body []byte, err error) {
	resp, err := Ask(ctx, cli, method, path, "", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if why := resp.Header.Get(StaleHeader); why != "" {
		fmt.Fprintln(cli.Err(), "WARNING:", why)
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, most)); err == nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return body, nil
}

// FormatFlag gives a command the flag whose value [Print] takes.
func FormatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", "", "Format output using a custom template: 'json' or a Go template")
}

// Print prints an answer in the format that was asked for: "" is for people, "json" is the answer itself, and everything
// else is a Go template for each of the values. Nothing is printed if the template is wrong.
func Print(cli command.Cli, format string, body []byte, people func(io.Writer), values ...any) error {
	var out bytes.Buffer
	switch format {
	case "":
		people(&out)
	case "json":
		out.Write(append(bytes.TrimSpace(body), '\n'))
	default:
		tmpl, err := templates.Parse(format)
		for _, v := range values {
			if err == nil {
				err = tmpl.Execute(&out, v)
				out.WriteByte('\n')
			}
		}
		if err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	_, err := cli.Out().Write(out.Bytes())
	return err
}
