package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

func (p *probe) resolve(ctx context.Context, name string) bool {
	target, called := p.next()
	if net.ParseIP(target.Hostname()) != nil {
		p.ok(name, "%s is an address", called)
		return true
	}
	lookup := p.Network.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupHost
	}
	addresses, err := try(ctx, p.limit, func(ctx context.Context) ([]string, error) { return lookup(ctx, target.Hostname()) })
	if err != nil || len(addresses) == 0 {
		p.fail(name, called+" does not resolve", p.dnsAdvice())
		return false
	}
	p.ok(name, "%s resolves", called)
	return true
}

func (p *probe) dnsAdvice() string {
	if p.proxy != nil {
		return "check HTTPS_PROXY and this network's DNS"
	}
	return "check " + p.Variable + " and this network's DNS" + p.privateOnly()
}

func (p *probe) connect(ctx context.Context, name string) (net.Conn, bool) {
	target, called := p.next()
	dial := p.Network.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	address := address(target)
	_, port, _ := net.SplitHostPort(address)
	conn, err := try(ctx, p.limit, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", address) })
	if err == nil {
		p.ok(name, "%s accepts connections on port %s", called, port)
		return conn, true
	}
	var timeout net.Error
	switch {
	case p.proxy != nil:
		p.fail(name, called+" does not accept a connection", "check HTTPS_PROXY, or name the host in NO_PROXY")
	case errors.Is(err, syscall.ECONNREFUSED) && p.origin.Scheme == "http":
		p.fail(name, called+" refuses connections on port "+port, "nothing listens there: if it is the sandbox, start it again (make sandbox) and load its new settings")
	case errors.Is(err, syscall.ECONNREFUSED):
		p.fail(name, called+" refuses connections on port "+port, "check the port in "+p.Variable+": the services answer on 443")
	case errors.As(err, &timeout) && timeout.Timeout():
		p.fail(name, called+" does not answer: the connection timed out", p.wayOut())
	default:
		p.fail(name, "there is no way to "+called+" from this network", p.wayOut())
	}
	return nil, false
}

// wayOut is the advice for a host that cannot be reached.
func (p *probe) wayOut() string {
	return "open the way from here to it on port 443 (firewall, security group, NAT gateway, or HTTPS_PROXY)" + p.privateOnly()
}

// privateOnly tells by the name of the host what most often makes one unreachable.
func (p *probe) privateOnly() string {
	host := p.origin.Hostname()
	switch {
	case strings.HasPrefix(host, "private.") || strings.Contains(host, ".private."):
		return fmt.Sprintf(". %s is a private endpoint: it answers inside IBM Cloud's network alone; from elsewhere use the public one in %s", host, p.Variable)
	case p.Instance:
		return fmt.Sprintf(". If the instance %s is private-only, as those made since April 2025 are unless created with public-and-private endpoints, "+
			"it answers inside IBM Cloud's network alone: give it a public endpoint, or run there with its private one", host)
	default:
		return ""
	}
}
