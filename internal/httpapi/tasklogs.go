package httpapi

import (
	"net/url"
)

func (a *api) serviceLogs(c *call) error { return a.logsOf(c, LogsOf{Service: c.value}) }

func (a *api) taskLogs(c *call) error { return a.logsOf(c, LogsOf{Task: c.value}) }

// logsOf writes the logs of tasks, wherever they run. A refusal before the first line is an answer of its own; what
// goes wrong later is told in the stream, as Docker does.
func (a *api) logsOf(c *call, of LogsOf) error {
	if err := need(a.TaskLogs != nil, "logs of services"); err != nil {
		return err
	}
	o, err := c.logOptions()
	if err != nil {
		return err
	}
	var out *logWriter
	err = a.TaskLogs.TaskLogs(c.Context(), of, o, func(tty bool) { out = c.logWriter(tty) }, func(l TaskLine) error {
		return out.line(l.LogLine, attributes(l))
	})
	if out == nil {
		return err
	}
	if err != nil && c.Context().Err() == nil {
		a.Log.Warn("the logs of tasks are not whole", "service", of.Service, "task", of.Task, "error", err)
		out.fail(err)
	}
	out.close()
	return nil
}

// attributes are what Docker's client tells tasks apart by, sorted by their names.
func attributes(l TaskLine) string {
	return "com.docker.swarm.node.id=" + url.QueryEscape(l.NodeID) +
		",com.docker.swarm.service.id=" + url.QueryEscape(l.ServiceID) +
		",com.docker.swarm.task.id=" + url.QueryEscape(l.TaskID)
}
