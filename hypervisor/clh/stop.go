package clh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Stop ends the VMM, with vmm.shutdown, SIGTERM and SIGKILL, and removes the
// machine's directory. The end of ctx goes straight to SIGKILL: Stop does its
// work whatever ctx says. It may be called again and by many at once.
func (m *Machine) Stop(ctx context.Context) error {
	<-m.stopping // each holder is bounded
	defer func() { m.stopping <- struct{}{} }()
	if m.stopped {
		return nil
	}
	if err := m.endProcess(ctx); err != nil {
		return fmt.Errorf("stop machine %s: %w", m.spec.ID, err)
	}
	m.process.close()
	<-m.lifetime.Done()
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.workers.Wait()
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("stop machine %s: %w", m.spec.ID, err)
	}
	m.stopped = true
	return nil
}

func (m *Machine) endProcess(ctx context.Context) error {
	if m.waitExit(ctx, 0) {
		return nil
	}
	m.mu.Lock()
	m.asked = true
	m.mu.Unlock()
	err := m.shutdown(ctx)
	if err == nil && m.waitExit(ctx, m.o.StopTimeout) {
		return nil
	}
	if ctx.Err() == nil {
		_ = m.process.cmd.Process.Signal(syscall.SIGTERM) // it may just have exited
		if m.waitExit(ctx, m.o.StopTimeout) {
			return nil
		}
	}
	m.process.kill()
	if m.waitExit(context.WithoutCancel(ctx), killTimeout) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("VMM %d is there %v after SIGKILL", m.process.id.PID, killTimeout))
}

// shutdown asks the VMM to end. Waiting for an earlier call, which may hang, counts
// against the time.
func (m *Machine) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.StopTimeout)
	defer cancel()
	return m.api.shutdown(ctx, m.o.StopTimeout)
}

// waitExit says whether the VMM has exited within the time.
func (m *Machine) waitExit(ctx context.Context, d time.Duration) bool {
	select {
	case <-m.process.exited:
		return true
	default:
	}
	select {
	case <-m.process.exited:
		return true
	case <-time.After(d):
	case <-ctx.Done():
	}
	return false
}
