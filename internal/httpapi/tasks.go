package httpapi

import "net/http"

func (a *api) taskRoutes() []route {
	return []route{
		get("/tasks", a.managed(a.listTasks)),
		get("/tasks/{id}", a.managed(a.inspectTask)),
		get("/tasks/{id}/logs", a.taskLogs).lasting(0),
	}
}

func (a *api) listTasks(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	tasks, err := a.Control.Tasks(c.Context(), filters)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(tasks))
}

func (a *api) inspectTask(c *call) error {
	t, err := a.Control.Task(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, t)
}
