// Tests of Secrets Manager with the core of IBM's node SDKs, because IBM has no npm package for version 2.
// The core exchanges the API key, compresses bodies and turns answers into errors. scripts/conformance runs this file.
const { BaseService, getAuthenticatorFromEnvironment, readExternalSources } = require('ibm-cloud-sdk-core');

class SecretsManager extends BaseService {
  async ask(method, path, body, query) {
    const headers = body && { 'Content-Type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json' };
    const answer = await this.createRequest({
      options: { url: `/api/v2${path}`, method, body, qs: query },
      defaultOptions: { ...this.baseOptions, headers: { Accept: 'application/json', ...headers } },
    });
    return answer.result;
  }
}

describe('Secrets Manager, by ibm-cloud-sdk-core', () => {
  const service = new SecretsManager({
    authenticator: getAuthenticatorFromEnvironment('secrets_manager'),
    serviceUrl: readExternalSources('secrets_manager').url,
  });
  service.setEnableGzipCompression(true);
  const refused = (status) => expect.objectContaining({ status, message: expect.any(String) });
  let secret;

  test('a secret is made, and read by its id and its name', async () => {
    secret = await service.ask('POST', '/secrets', { secret_type: 'arbitrary', name: 'conformance', payload: 'one', labels: ['node'] });
    expect(await service.ask('GET', `/secrets/${secret.id}`)).toMatchObject({ id: secret.id, payload: 'one', versions_total: 1 });
    expect(await service.ask('GET', '/secret_groups/default/secret_types/arbitrary/secrets/conformance')).toMatchObject({ payload: 'one' });
  });

  test('a new version makes the current one previous', async () => {
    const made = await service.ask('POST', `/secrets/${secret.id}/versions`, { payload: 'two', version_custom_metadata: { by: 'node' } });
    expect(made).toMatchObject({ alias: 'current', payload: 'two', version_custom_metadata: { by: 'node' } });
    expect(await service.ask('GET', `/secrets/${secret.id}/versions/previous`)).toMatchObject({ payload: 'one' });
  });

  test('metadata is changed, and found by a search', async () => {
    await service.ask('PATCH', `/secrets/${secret.id}/metadata`, { description: 'of node' });
    const page = await service.ask('GET', '/secrets', undefined, { search: 'of node', match_all_labels: ['node'] });
    expect(page).toMatchObject({ total_count: 1, secrets: [{ id: secret.id, description: 'of node' }] });
  });

  test('a locked previous version stops a new one', async () => {
    await service.ask('POST', `/secrets/${secret.id}/versions/previous/locks_bulk`, { locks: [{ name: 'held' }] });
    await expect(service.ask('POST', `/secrets/${secret.id}/versions`, { payload: 'three' })).rejects.toEqual(refused(412));
    await service.ask('DELETE', `/secrets/${secret.id}/locks_bulk`);
  });

  test('a deleted secret, a wrong request and an operation that is not served are errors', async () => {
    await service.ask('DELETE', `/secrets/${secret.id}`);
    await expect(service.ask('GET', `/secrets/${secret.id}`)).rejects.toEqual(refused(404));
    await expect(service.ask('POST', '/secrets', { secret_type: 'arbitrary', name: 'x' })).rejects.toEqual(refused(400));
    await expect(service.ask('GET', '/configurations')).rejects.toEqual(refused(501));
  });
});
