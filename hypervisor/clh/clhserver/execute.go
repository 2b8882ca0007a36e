package clhserver

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

const prefix = "/api/v1/"

// operation is one endpoint.
type operation struct {
	method string
	body   bool // wants a body; without it a body is an error
	rights bool // takes descriptors
	run    func(s *server, ctx context.Context, req *request) (answer any, err error)
	after  func(s *server) // runs once the answer is written
	status int             // of success without an answer
}

var operations = map[string]operation{
	"vmm.ping":         {method: http.MethodGet, run: (*server).ping},
	"vmm.shutdown":     {method: http.MethodPut, run: (*server).shutdownVMM, after: (*server).exit, status: http.StatusOK},
	"vm.create":        {method: http.MethodPut, body: true, run: (*server).create},
	"vm.boot":          {method: http.MethodPut, run: (*server).boot},
	"vm.info":          {method: http.MethodGet, run: (*server).info},
	"vm.counters":      {method: http.MethodGet, run: (*server).counters},
	"vm.pause":         {method: http.MethodPut, run: (*server).pause},
	"vm.resume":        {method: http.MethodPut, run: (*server).resume},
	"vm.shutdown":      {method: http.MethodPut, run: (*server).shutdownVM},
	"vm.delete":        {method: http.MethodPut, run: (*server).delete},
	"vm.reboot":        {method: http.MethodPut, run: (*server).reboot},
	"vm.power-button":  {method: http.MethodPut, run: (*server).powerButton},
	"vm.resize":        {method: http.MethodPut, body: true, run: (*server).resize},
	"vm.resize-disk":   {method: http.MethodPut, body: true, run: (*server).resizeDisk},
	"vm.add-disk":      {method: http.MethodPut, body: true, run: (*server).addDisk},
	"vm.add-net":       {method: http.MethodPut, body: true, rights: true, run: (*server).addNet},
	"vm.remove-device": {method: http.MethodPut, body: true, run: (*server).removeDevice},
}

// execute carries out a request when its turn has come. The descriptors of req
// are closed unless the operation has taken them out of it.
func (s *server) execute(ctx context.Context, in *stream, req *request) (Response, func()) {
	defer func() { closeAll(req.files) }()
	name, ok := strings.CutPrefix(req.path, prefix)
	op, known := operations[name]
	if !ok || !known || name == "vm.resize-disk" && !s.cfg.Profile.ResizeDisk {
		text := fail(badRequest, "Not Found")
		return Response{Status: http.StatusNotFound, Body: s.cfg.Profile.body(name, text)}, nil
	}
	if req.method == http.MethodPatch {
		return Response{Status: http.StatusBadRequest}, nil
	}
	if req.method != op.method || (len(req.body) > 0) != op.body {
		if name == "vm.create" && req.method == op.method {
			return Response{Status: http.StatusBadRequest}, nil
		}
		return Response{Status: http.StatusBadRequest, Body: s.cfg.Profile.body(name, fail(badRequest, "Bad Request"))}, nil
	}
	if !op.rights {
		closeAll(req.files)
		req.files = nil
	}
	if !s.acquire(ctx) {
		return Response{Drop: true}, nil
	}
	defer s.release()
	if in.hungUp() { // whoever asked has gone before we began
		return Response{Drop: true}, nil
	}
	serve := func() Response { return s.run(ctx, name, op, req) }
	resp := Response{}
	if s.cfg.Intercept != nil {
		resp = s.cfg.Intercept(ctx, Call{name, s.count(name), req.body}, serve)
	} else {
		resp = serve()
	}
	if op.after != nil && resp.Status < 300 && !resp.Drop {
		return resp, func() { op.after(s) }
	}
	return resp, nil
}

func (s *server) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[name]++
	return s.counts[name]
}

func (s *server) run(ctx context.Context, name string, op operation, req *request) Response {
	answer, err := op.run(s, ctx, req)
	if err != nil {
		return Response{Status: s.cfg.Profile.status(err), Body: s.cfg.Profile.body(name, err)}
	}
	if answer == nil {
		if op.status != 0 {
			return Response{Status: op.status}
		}
		return Response{Status: http.StatusNoContent}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return Response{Status: http.StatusInternalServerError, Body: s.cfg.Profile.body(name, err)}
	}
	return Response{Status: http.StatusOK, Body: body}
}
