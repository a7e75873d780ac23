package ibmcloudtest_test

import (
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestStories(t *testing.T) {
	for name, text := range map[string]string{
		"a secret from creation to deletion": `
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"my-secret","payload":"s3cret","description":"d",\
				"labels":["dev","us-south"],"custom_metadata":{"a":1},"version_custom_metadata":{"b":2}} => 201 {"id":"$id"}
			advance 1m
			admin GET /api/v2/secrets/$id => 200 {"id":"$id","name":"my-secret","description":"d","secret_type":"arbitrary","payload":"s3cret",\
				"secret_group_id":"default","versions_total":1,"locks_total":0,"state":1,"state_description":"active","downloaded":true,\
				"created_at":"2026-03-01T12:00:00.000Z","updated_at":"2026-03-01T12:00:00.000Z","retrieved_at":"2026-03-01T12:01:00.000Z",\
				"crn":"*","custom_metadata":{"a":1},"labels":["dev","us-south"]}
			admin GET /api/v2/secret_groups/default/secret_types/arbitrary/secrets/my-secret => 200 {"id":"$id","payload":"s3cret"}
			admin GET /api/v2/secrets/$id/metadata => 200 {"name":"my-secret","payload":null}
			admin DELETE /api/v2/secrets/$id => 204
			admin GET /api/v2/secrets/$id => 404
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"my-secret","payload":"x"} => 201 {"id":"!$id"}`,

		"metadata are replaced whole": `
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"old","payload":"x","custom_metadata":{"a":1}} => 201 {"id":"$id"}
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"taken","payload":"x"} => 201
			admin PATCH /api/v2/secrets/$id/metadata {"name":"taken"} => 409
			admin PATCH /api/v2/secrets/$id/metadata {"name":"-"} => 400
			admin PATCH /api/v2/secrets/$id/metadata {"payload":"x"} => 400
			admin PATCH /api/v2/secrets/$id/metadata {"labels":["a"]} => 400
			admin PATCH /api/v2/secrets/$id/metadata Content-Type:application/json {} => 415
			admin PATCH /api/v2/secrets/$id/metadata {"name":"new","labels":["xx"],"custom_metadata":{"b":2}} => 200\
				 {"name":"new","custom_metadata":{"a":null,"b":2},"labels":["xx"]}
			admin GET /api/v2/secret_groups/default/secret_types/arbitrary/secrets/old => 404
			admin GET /api/v2/secret_groups/default/secret_types/arbitrary/secrets/new => 200`,

		"a secret is destroyed at its expiration date": `
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"brief","payload":"x","expiration_date":"2026-03-01T12:10:00Z"} => 201 {"id":"$id"}
			advance 9m59.999999999s
			admin POST /api/v2/secrets/$id/versions {"payload":"y"} => 201
			admin GET /api/v2/secrets/$id => 200 {"payload":"y","state":1}
			advance 1ns
			admin GET /api/v2/secrets/$id => 200 {"payload":null,"state":5,"state_description":"destroyed"}
			admin GET /api/v2/secrets/$id/versions/current/metadata => 200 {"payload_available":false}
			admin POST /api/v2/secrets/$id/versions {"payload":"z"} => 400
			admin PATCH /api/v2/secrets/$id/metadata {"expiration_date":"2030-01-01T00:00:00Z"} => 400
			nobody PATCH /_sandbox/settings {"destroyed_status":410} => 200
			admin POST /api/v2/secrets/$id/versions {"payload":"z"} => 410`,

		"groups": `
			admin POST /api/v2/secret_groups {"name":"my-group","description":"d"} => 201 {"id":"$id"}
			admin POST /api/v2/secret_groups {"name":"my-group"} => 409
			admin POST /api/v2/secret_groups {"name":"<g*65>"} => 400
			admin PATCH /api/v2/secret_groups/$id {"name":"default"} => 409
			admin PATCH /api/v2/secret_groups/$id {"name":"my-group","description":"e"} => 200 {"description":"e"}
			admin GET /api/v2/secret_groups/$id => 200 {"name":"my-group","created_at":"2026-03-01T12:00:00.000Z"}
			admin GET /api/v2/secret_groups => 200 {"total_count":4,"secret_groups":[{"id":"default"},{},{},{"name":"my-group"}]}
			admin POST /api/v2/secrets {"secret_type":"kv","name":"inside","data":{"k":"v"},"secret_group_id":"$id"} => 201 {"id":"$secret","data":{"k":"v"}}
			admin DELETE /api/v2/secret_groups/$id => 412
			admin DELETE /api/v2/secrets/$secret => 204
			admin DELETE /api/v2/secret_groups/$id => 204
			admin GET /api/v2/secret_groups/$id => 404
			admin DELETE /api/v2/secret_groups/default => 400`,

		"versions and their aliases": `
			admin GET /api/v2/secrets/$TOKEN/versions/previous => 404
			admin GET /api/v2/secrets/$TOKEN/versions/current => 200 {"payload":"no token yet","version_custom_metadata":null}
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"1"} => 201 {"id":"$one","alias":"current","payload_available":true,"secret_id":"$TOKEN"}
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"2","version_custom_metadata":{"n":2}} => 201 {"id":"$two","version_custom_metadata":{"n":2}}
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"3"} => 201 {"id":"$three"}
			admin GET /api/v2/secrets/$TOKEN/versions/current => 200 {"id":"$three","alias":"current","payload":"3"}
			admin GET /api/v2/secrets/$TOKEN/versions/$three => 200 {"id":"$three","alias":"current","payload":"3"}
			admin GET /api/v2/secrets/$TOKEN/versions/previous => 200 {"id":"$two","alias":"previous","payload":"2","payload_available":true}
			admin GET /api/v2/secrets/$TOKEN/versions/$one => 200 {"id":"$one","alias":null,"payload":null,"payload_available":false}
			admin GET /api/v2/secrets/$TOKEN/versions/previous/metadata => 200 {"id":"$two","payload":null,"version_custom_metadata":{"n":2}}
			admin GET /api/v2/secrets/$TOKEN/versions => 200 {"total_count":4,"versions":[{"id":"$three","payload":null},{"alias":"previous"},{"id":"$one"},{}]}
			admin GET /api/v2/secrets/$TOKEN/versions/none => 404
			admin PATCH /api/v2/secrets/$TOKEN/versions/current/metadata {"version_custom_metadata":"text"} => 400
			admin PATCH /api/v2/secrets/$TOKEN/versions/previous/metadata {"version_custom_metadata":{"by":"hand"}} => 200\
				 {"version_custom_metadata":{"by":"hand","n":null}}`,

		"a lock on current travels to previous, and stops the second rotation": `
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[{"name":"job","description":"d","attributes":{"a":1}}]} => 201
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"1"} => 201
			admin GET /api/v2/secrets/$TOKEN/versions/previous/locks => 200\
				 {"total_count":1,"locks":[{"name":"job","secret_version_alias":"previous","attributes":{"a":1},"description":"d"}]}
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"2"} => 412\
				 {"errors":[{"message":"The requested action can't be completed because the secret version is locked."}]}
			admin GET /api/v2/secrets/$TOKEN => 200 {"payload":"1","locks_total":1}
			admin DELETE /api/v2/secrets/$TOKEN => 412
			admin DELETE /api/v2/secrets/$TOKEN/versions/previous/locks_bulk?name=other,job => 200
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"2"} => 201
			admin DELETE /api/v2/secrets/$TOKEN => 204`,

		"modes of making locks": `
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"1"} => 201
			admin POST /api/v2/secrets/$TOKEN/versions/previous/locks_bulk {"locks":[{"name":"a"},{"name":"b"}]} => 201
			admin POST /api/v2/secrets/$TOKEN/locks_bulk?mode=other {"locks":[{"name":"a"}]} => 400
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[{"name":"a"}]} => 201\
				 {"versions":[{"version_alias":"current","locks":["a"]},{"locks":["a","b"],"payload_available":true}]}
			admin POST /api/v2/secrets/$TOKEN/locks_bulk?mode=remove_previous {"locks":[{"name":"a"}]} => 201 {"versions":[{"locks":["a"]},{"locks":["b"]}]}
			admin POST /api/v2/secrets/$TOKEN/locks_bulk?mode=remove_previous_and_delete {"locks":[{"name":"c"}]} => 201\
				 {"versions":[{"locks":["a","c"]},{"locks":["b"],"payload_available":true}]}
			admin POST /api/v2/secrets/$TOKEN/locks_bulk?mode=remove_previous_and_delete {"locks":[{"name":"b"}]} => 201\
				 {"versions":[{"locks":["a","c","b"]},{"locks":[],"payload_available":false}]}
			admin GET /api/v2/secrets/$TOKEN/versions/previous => 200 {"payload":null}`,

		"what a lock must be": `
			admin GET /api/v2/secrets/$TOKEN/versions/current => 200 {"id":"$oldest"}
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"1"} => 201
			admin POST /api/v2/secrets/$TOKEN/versions {"payload":"2"} => 201
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[]} => 400
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {} => 400
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[{"name":""}]} => 400
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[{"name":"a","attributes":1}]} => 400
			admin POST /api/v2/secrets/$TOKEN/versions/$oldest/locks_bulk {"locks":[{"name":"a"}]} => 400
			admin POST /api/v2/secrets/$TOKEN/versions/none/locks_bulk {"locks":[{"name":"a"}]} => 404
			admin POST /api/v2/secrets/$TOKEN/versions/previous/locks_bulk {"locks":[{"name":"a"}]} => 201
			advance 1m
			admin POST /api/v2/secrets/$TOKEN/versions/previous/locks_bulk {"locks":[{"name":"a","description":"again"}]} => 201
			admin GET /api/v2/secrets/$TOKEN/locks => 200 {"total_count":1,"locks":[{"description":"again",\
				"created_at":"2026-03-01T12:00:00.000Z","updated_at":"2026-03-01T12:01:00.000Z"}]}
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[<{"name":"b"},*999>{"name":"b"}]} => 400
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[<{"name":"b"},*998>{"name":"b"}]} => 201`,

		"locks are listed": `
			admin POST /api/v2/secrets/$TOKEN/locks_bulk {"locks":[{"name":"b-job"},{"name":"a-job"},{"name":"c-other"}]} => 201
			admin GET /api/v2/secrets/$TOKEN/locks?sort=-name&search=job&limit=1 => 200 {"total_count":2,"locks":[{"name":"b-job"}],"next":{"href":"*"}}
			admin GET /api/v2/secrets/$TOKEN/locks?sort=colour => 400
			admin GET /api/v2/secrets_locks?search=other => 200 {"total_count":1,"secrets_locks":[{"secret_id":"$TOKEN"}]}
			admin GET /api/v2/secrets_locks?groups=default => 200 {"total_count":0}
			reader GET /api/v2/secrets_locks => 200 {"total_count":1}`,

		"an API key from creation to deletion": `
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","account_id":"$ACCOUNT","description":"d","action_when_leaked":"disable",\
				"expires_at":"2026-03-03T12:00+0000"} => 201 {"id":"$id","apikey":"$value","name":"k","description":"d","action_when_leaked":"disable",\
				"expires_at":"2026-03-03T12:00+0000","created_at":"2026-03-01T12:00+0000","iam_id":"$IAM_ID","account_id":"$ACCOUNT","locked":false,"disabled":false}
			# IAM does not know it yet.
			exchange $value => 400 {"errorCode":"BXNIM0415E"}
			advance 2s
			exchange $value => 200 {"access_token":"$token"}
			admin GET /v1/apikeys/$id => 200 {"apikey":""}
			advance 48h
			exchange $value => 400
			admin DELETE /v1/apikeys/$id => 204
			admin DELETE /v1/apikeys/$id => 404
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","store_value":true} => 201 {"id":"$stored","apikey":"$kept"}
			advance 2s
			admin GET /v1/apikeys/$stored => 200 {"apikey":"$kept"}
			exchange $kept => 200 {"access_token":"$last"}
			admin DELETE /v1/apikeys/$stored => 204
			exchange $kept => 400
			# A token outlives its key.
			$last GET /v3/targets => 200`,

		"the expiry of an API key": `
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","expires_at":"2026-03-01T13:00:09+0000"} => 201 {"expires_at":"2026-03-01T13:00:09+0000"}
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","expires_at":"2026-03-01T13:00:09Z"} => 201 {"expires_at":"2026-03-01T13:00:09+0000"}
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","expires_at":"2026-03-01T15:00:09+02:00"} => 201 {"expires_at":"2026-03-01T13:00:09+0000"}
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","expires_at":"2026-03-01T12:00:09+0000"} => 201 {"apikey":"$key"}
			advance 8s
			exchange $key => 200
			advance 1s
			exchange $key => 400`,

		"an API key is changed by its tag": `
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID"} => 201 {"id":"$id","entity_tag":"$tag"}
			admin PUT /v1/apikeys/$id {"description":"new"} => 400
			admin PUT /v1/apikeys/$id If-Match:stale {"description":"new"} => 409
			admin PUT /v1/apikeys/$id If-Match:$tag {"name":""} => 400
			admin PUT /v1/apikeys/$id If-Match:$tag {"description":"new"} => 200
			admin PUT /v1/apikeys/$id If-Match:$tag {"description":"newer"} => 409
			admin PUT /v1/apikeys/$id If-Match:* {"description":"newest"} => 200
			admin GET /v1/apikeys/$id => 200 {"description":"newest","name":"k","entity_tag":"!$tag"}`,

		"requests about API keys that are refused": `
			admin POST /v1/apikeys {"iam_id":"x"} => 400 {"errors":[{"message":"*","details":"name"}]}
			admin POST /v1/apikeys {"name":"k"} => 400
			admin POST /v1/apikeys {"name":"k","iam_id":"iam-ServiceId-none"} => 404
			admin POST /v1/apikeys {"name":"k","iam_id":"iam-$PROFILE"} => 404
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","account_id":"other"} => 400
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","expires_at":"2020-01-01T00:00+0000"} => 400
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","expires_at":"soon"} => 400
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","action_when_leaked":"shout"} => 400
			admin POST /v1/apikeys {"name":"k","iam_id":"$IAM_ID","other":1} => 400
			admin GET /v1/apikeys?account_id=other => 400
			admin GET /v1/apikeys?pagesize=101 => 400
			admin GET /v1/apikeys?pagetoken=none => 400
			admin PUT /v1/apikeys/ApiKey-none {} => 404`,

		"a key's details are for its owner and the admin": `
			workload GET /v1/apikeys/details IAM-ApiKey:$WORKLOAD_KEY => 200 {"iam_id":"$IAM_ID","account_id":"$ACCOUNT","apikey":""}
			admin GET /v1/apikeys/details Iam-Apikey:$WORKLOAD_KEY => 200 {"iam_id":"$IAM_ID","apikey":""}
			reader GET /v1/apikeys/details IAM-ApiKey:$WORKLOAD_KEY => 403 {"errors":[{"details":"The action iam-identity.apikey.details is missing."}]}
			reader GET /v1/apikeys/details => 403
			admin GET /v1/apikeys/details => 404
			admin GET /v1/apikeys/details IAM-ApiKey:unknown => 404
			reader GET /v1/apikeys/details IAM-ApiKey:unknown => 403
			workload GET /v1/apikeys => 403
			nobody PATCH /_sandbox/settings {"own_keys":"none"} => 200
			workload GET /v1/apikeys/details IAM-ApiKey:$WORKLOAD_KEY => 403
			nobody PATCH /_sandbox/settings {"own_keys":"policy"} => 200
			workload GET /v1/apikeys/details IAM-ApiKey:$WORKLOAD_KEY => 200
			workload GET /v1/apikeys => 200 {"apikeys":[{"iam_id":"$IAM_ID","apikey":""}]}
			reader GET /v1/apikeys?iam_id=$IAM_ID => 403`,

		"a deleted service id ends its keys and tokens": managed + `
			exchange $first => 200 {"access_token":"$token"}
			$token GET /v3/targets => 200
			admin GET /v1/serviceids/$ID => 200 {"iam_id":"$IAM_ID","account_id":"$ACCOUNT","id":"$ID"}
			$token DELETE /v1/serviceids/$ID => 403
			admin DELETE /v1/serviceids/$ID => 204
			$token GET /v3/targets => 401
			exchange $first => 400
			exchange $WORKLOAD_KEY => 400
			admin POST /api/v2/secrets/$id/versions {} => 400
			admin DELETE /v1/serviceids/$ID => 404
			admin POST /v1/serviceids/ {"name":"successor","account_id":"$ACCOUNT"} => 201 {"iam_id":"$successor","id":"*"}
			admin GET /v1/serviceids/?name=successor => 200 {"serviceids":[{"iam_id":"$successor"}]}
			admin POST /v1/serviceids/ {"name":"x","account_id":"other"} => 400`,

		"the keys that a secret makes are locked": managed + `
			admin GET /api/v2/secrets/$id => 200 {"api_key_id":"$key"}
			admin GET /v1/apikeys/$key => 200 {"locked":true,"name":"Secrets-Manager-IAM-Secret-workload","iam_id":"$IAM_ID"}
			admin PUT /v1/apikeys/$key If-Match:* {"description":"d"} => 409
			admin DELETE /v1/apikeys/$key => 409
			admin POST /v1/apikeys/$key/disable => 409
			admin DELETE /v1/apikeys/$key/lock => 204
			admin PUT /v1/apikeys/$key If-Match:* {"description":"d"} => 200
			admin POST /v1/apikeys/$key/disable => 204
			exchange $first => 400 {"errorCode":"BXNIM0462E"}
			admin GET /v1/apikeys/$key => 200 {"disabled":true,"locked":false}
			admin DELETE /v1/apikeys/$key/disable => 204
			exchange $first => 200
			admin POST /v1/apikeys/$key/lock => 204
			admin DELETE /v1/apikeys/$key => 409
			admin DELETE /api/v2/secrets/$id => 204
			exchange $first => 400`,

		"a key is restored": managed + `
			nobody PATCH /_sandbox/settings {"older_key":"deleted"} => 200
			advance 24h
			admin POST /api/v2/secrets/$id/versions {} => 201 {"api_key":"!$first"}
			admin POST /api/v2/secrets/$id/versions {"restore_from_version":"previous"} => 201\
				 {"api_key":"$first","expiration_date":"2026-04-15T12:00:00.000Z"}
			exchange $first => 200
			admin POST /api/v2/secrets/$id/versions {"restore_from_version":"none"} => 400
			advance 360h
			admin GET /api/v2/secrets/$id => 200 {"api_key":"!$first"}`,

		"the end of a lease": managed + `
			admin PATCH /api/v2/secrets/$id/metadata {"rotation":{"auto_rotate":false}} => 200 {"rotation":{"auto_rotate":false,"unit":null}}
			advance 1079h59m57s
			exchange $first => 200
			advance 1s
			exchange $first => 400
			admin GET /api/v2/secrets/$id => 200 {"api_key":null,"api_key_id":null,"state":5}
			nobody PATCH /_sandbox/settings {"ended_key_secret_status":404} => 200
			admin GET /api/v2/secrets/$id => 404
			nobody PATCH /_sandbox/settings {"ended_key_secret_status":410} => 200
			admin GET /api/v2/secrets/$id => 410
			admin POST /api/v2/secrets/$id/versions {} => 400
			admin POST /api/v2/secrets/$id/versions {"restore_from_version":"current"} => 400
			admin DELETE /api/v2/secrets/$id => 204`,

		"a change of the rule": managed + `
			advance 24h
			admin PATCH /api/v2/secrets/$id/metadata {"rotation":{"auto_rotate":true,"interval":46,"unit":"day"}} => 400
			admin PATCH /api/v2/secrets/$id/metadata {"ttl":"14h"} => 400
			admin PATCH /api/v2/secrets/$id/metadata {"rotation":{"auto_rotate":true,"interval":1,"unit":"month"}} => 200\
				 {"next_rotation_date":"2026-04-02T12:00:02.000Z"}
			admin GET /api/v2/secrets/$id => 200 {"api_key":"$first"}
			nobody PATCH /_sandbox/settings {"rule_change":"rotates"} => 200
			admin PATCH /api/v2/secrets/$id/metadata {"rotation":{"auto_rotate":true,"interval":20,"unit":"day"}} => 200\
				 {"next_rotation_date":"2026-03-22T12:00:02.000Z"}
			admin GET /api/v2/secrets/$id => 200 {"api_key":"!$first"}`,

		"rotations that fail": managed + `
			nobody PATCH /_sandbox/settings {"automatic_rotation":"fails"} => 200
			advance 960h
			admin GET /api/v2/secrets/$id => 200 {"api_key":"$first"}
			admin POST /api/v2/secrets/$id/versions {} => 201 {"api_key":"!$first"}`,

		"a secret of access groups changes its identity": `
			admin POST /api/v2/secrets {"secret_type":"iam_credentials","name":"grouped","ttl":"48h","reuse_api_key":true,\
				"access_groups":["AccessGroupId-1"]} => 201 {"id":"$id"}
			admin GET /api/v2/secrets/$id => 200 {"service_id":"$a","api_key":"$first","service_id_is_static":false,"access_groups":["AccessGroupId-1"]}
			advance 2s
			admin POST /api/v2/secrets/$id/versions {} => 201 {"service_id":"!$a"}
			admin GET /api/v2/secrets/$id => 200 {"service_id":"$b"}
			exchange $first => 200
			advance 48h
			exchange $first => 400
			admin GET /api/v2/secrets/$id => 200 {"service_id":"$c","api_key":"*"}
			admin GET /api/v2/secrets/$id => 200 {"service_id":"!$b"}
			# Without the authorization no key is made at the end of the lease.
			nobody PATCH /_sandbox/settings {"key_authorization":"none"} => 200
			advance 49h
			admin GET /api/v2/secrets/$id => 200 {"api_key":null}
			nobody PATCH /_sandbox/settings {"key_authorization":"account"} => 200
			admin GET /api/v2/secrets/$id => 200 {"service_id":"$d","api_key":"*"}
			admin GET /api/v2/secrets/$id => 200 {"service_id":"!$c"}
			# Many leases at once.
			advance 78840h
			admin GET /api/v2/secrets/$id => 200 {"service_id":"!$d","api_key":"*"}`,

		"without reuse_api_key each reading makes a key": `
			admin POST /api/v2/secrets {"secret_type":"iam_credentials","name":"fresh","ttl":"24h","service_id":"$ID"} => 201 {"id":"$id","reuse_api_key":false}
			admin GET /api/v2/secrets/$id => 200 {"api_key":"$first","service_id":"$ID"}
			advance 2s
			exchange $first => 200
			admin GET /api/v2/secrets/$id/metadata => 200
			exchange $first => 200
			admin GET /api/v2/secrets/$id/versions/current => 200 {"api_key":"$second"}
			exchange $first => 400
			advance 2s
			exchange $second => 200
			advance 24h
			exchange $second => 400
			admin GET /api/v2/secrets/$id => 200 {"api_key":"$third"}
			advance 2s
			exchange $third => 200
			admin POST /api/v2/secrets/$id/versions {} => 400
			admin POST /api/v2/secrets/$id/locks_bulk {"locks":[{"name":"job"}]} => 201
			admin GET /api/v2/secrets/$id => 412`,

		"service credentials": `
			admin POST /api/v2/secrets {"secret_type":"service_credentials","name":"creds","source_service":{"instance":{"crn":"crn:v1:x"}}} => 201 {"id":"$id"}
			admin GET /api/v2/secrets/$id => 200 {"credentials":{"apikey":"$key","iam_apikey_id":"*"},"source_service":{"instance":{"crn":"crn:v1:x"}}}
			exchange $key => 400
			advance 2s
			exchange $key => 200
			admin DELETE /api/v2/secrets/$id => 204
			exchange $key => 400`,

		"statuses that IBM leaves open": `
			nobody PATCH /_sandbox/settings {"duplicate_status":400,"too_large_status":413,"unknown_key_status":401} => 200
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"aa","payload":"x"} => 201 {"id":"$id"}
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"aa","payload":"x"} => 400
			admin POST /api/v2/secrets/$id/versions {"payload":"<x*1000001>"} => 413
			admin POST /api/v2/secrets/$id/versions {"payload":"<x*9000000>"} => 413
			exchange nobodys => 401`,

		"the clock goes forward": `
			nobody POST /_sandbox/clock {} => 400 {"errors":[{"message":"$rule"}]}
			nobody POST /_sandbox/clock {"advance":"0s"} => 400 {"errors":[{"message":"$rule"}]}
			nobody POST /_sandbox/clock {"advance":"-1h"} => 400 {"errors":[{"message":"$rule"}]}
			nobody POST /_sandbox/clock {"advance":"1 day"} => 400 {"errors":[{"message":"$rule"}]}
			nobody POST /_sandbox/clock {"advance":"87601h"} => 400 {"errors":[{"message":"$rule"}]}
			nobody POST /_sandbox/clock {"advance":86400} => 400
			nobody POST /_sandbox/clock {"back":"1h"} => 400
			exchange $ADMIN_KEY => 200 {"access_token":"$token"}
			$token GET /v1/apikeys => 200
			nobody POST /_sandbox/clock {"advance":"2h"} => 200 {"now":"2026-03-01T14:00:00.000Z","ahead_seconds":7200}
			$token GET /v1/apikeys => 401
			nobody GET /_sandbox/clock => 200 {"ahead_seconds":7200}`,

		"requests for a token": `
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=$READER_KEY => 200\
				 {"expires_in":3600,"expiration":1772370000,"refresh_token":"not_supported","token_type":"Bearer","scope":"ibm openid"}
			nobody POST /identity/token $FORM;charset=utf-8 grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=$READER_KEY => 200
			nobody POST /identity/token $FORM Ibm-Cloud-Tenant:other,$ACCOUNT grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=$READER_KEY => 200
			nobody POST /identity/token $FORM Ibm-Cloud-Tenant:other grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=$READER_KEY => 400\
				 {"errorCode":"BXNIM0106E"}
			nobody POST /identity/token Content-Type:application/json {"apikey":"$READER_KEY"} => 415 {"errorCode":"BXNIM0106E"}
			nobody POST /identity/token $FORM apikey=$READER_KEY => 400 {"errorCode":"BXNIM0106E"}
			nobody POST /identity/token $FORM grant_type=other => 400 {"errorCode":"BXNIM0106E"}
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:assume => 501 {"errorCode":"not_implemented"}
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:apikey => 400 {"errorCode":"BXNIM0106E"}
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=nobodys => 400 {"errorCode":"BXNIM0415E"}
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=$READER_KEY%0A => 400 {"errorCode":"BXNIM0415E"}
			nobody POST /identity/token $FORM grant_type=<x*9000000> => 400 {"errorCode":"BXNIM0106E"}`,

		"the trusted profile": `
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=any&profile_name=rotator-bootstrap => 200 {"access_token":"$t"}
			$t GET /api/v2/secrets/$KEY => 200
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=any&profile_id=$PROFILE => 200
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=any\
				&profile_crn=crn:v1:bluemix:public:iam-identity::a/$ACCOUNT::profile:$PROFILE => 200
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=&profile_name=rotator-bootstrap => 400
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=any&profile_name=other => 400
			nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=any&scope=x => 400`,

		// IBM's secrets engine for Vault asks this when a role is configured, with a JSON content type without a body.
		"what IBM's plugin for Vault asks": `
			admin GET /v2/groups Content-Type:application/json => 200 {"total_count":2,"groups":[{"id":"$one"},{"id":"$two"}]}
			admin GET /v2/groups/$one Content-Type:application/json => 200 {"id":"$one","account_id":"$ACCOUNT"}
			admin GET /v2/groups/$two Content-Type:application/json => 200 {"id":"$two","account_id":"$ACCOUNT"}
			admin GET /v2/groups/AccessGroupId-none => 404
			admin GET /v1/serviceids/$ID Content-Type:application/json => 200 {"id":"$ID","account_id":"$ACCOUNT"}
			admin GET /v1/serviceids/ServiceId-none => 404
			nobody GET /identity/.well-known/openid-configuration => 200\
				 {"issuer":"https://iam.cloud.ibm.com/identity","jwks_uri":"https://cloud.test/identity/keys"}`,

		"Logs Routing": `
			workload GET /v3/targets => 200 {"targets":[{"id":"$target","crn":"$crn","name":"$name","target_type":"cloud_logs","destination_crn":"*",\
				"write_status":{"status":"success"},"created_at":"*","updated_at":"*","managed_by":"*","region":"*"}]}
			workload GET /v3/targets/$target => 200 {"id":"$target"}
			workload GET /v3/routes => 200 {"routes":[{"id":"$route","name":"*","crn":"*","created_at":"*","updated_at":"*",\
				"rules":[{"targets":[{"id":"$target","crn":"$crn","name":"$name","target_type":"cloud_logs"}]}]}]}
			workload GET /v3/routes/$route => 200 {"id":"$route"}
			workload GET /v3/settings => 200 {"default_targets":[{"id":"$target","crn":"$crn","name":"$name","target_type":"cloud_logs"}],\
				"permitted_target_regions":["us-south"],"primary_metadata_region":"us-south","private_api_endpoint_only":false,"api_version":3}
			workload GET /v1/tenants IBM-API-Version:2026-03-01 => 200 {"tenants":[{"id":"$tenant","targets":[{"id":"$sink","name":"*",\
				"log_sink_crn":"*","type":"*","etag":"*","created_at":"*","updated_at":"*","write_status":{"status":"success"}}]}]}
			workload GET /v1/tenants/$tenant IBM-API-Version:2026-03-01 => 200 {"id":"$tenant"}
			workload GET /v1/tenants/$tenant/targets IBM-API-Version:2026-03-01 => 200 {"targets":[{"id":"$sink"}]}
			workload GET /v1/tenants/$tenant/targets/$sink IBM-API-Version:2026-03-01 => 200 {"id":"$sink"}
			workload GET /v1/tenants?name=default IBM-API-Version:2026-03-01 => 200 {"tenants":[{}]}
			workload GET /v1/tenants?name=other IBM-API-Version:2026-03-01 => 200 {"tenants":[]}
			workload GET /v1/tenants/$tenant/targets?name=cloud-logs-sink IBM-API-Version:2026-03-01 => 200 {"targets":[{}]}
			workload GET /v1/tenants/$tenant/targets?name=x IBM-API-Version:2026-03-01 => 200 {"targets":[]}
			workload GET /v1/tenants/$tenant/targets/x IBM-API-Version:2026-03-01 => 404
			workload GET /v1/tenants => 400
			workload GET /v1/tenants IBM-API-Version:today => 400
			workload GET /v1/tenants IBM-API-Version:20260301 => 400`,
	} {
		t.Run(name, func(t *testing.T) {
			newStory(newClient(t, ibmcloudtest.Options{})).play(text)
		})
	}
}

// managed is the beginning of stories about a secret that creates keys of the workload. Each key has a lease of
// 45 days, and there is a new one every 15 days.
const managed = `
	admin POST /api/v2/secrets {"secret_type":"iam_credentials","name":"workload","ttl":"1080h","reuse_api_key":true,"service_id":"$ID",\
		"rotation":{"auto_rotate":true,"interval":15,"unit":"day"}} => 201 {"id":"$id","api_key":"$first"}
	advance 2s
`
