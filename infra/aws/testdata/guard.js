// Prints a line "RULE LOGICAL-ID" for each finding of cdk-nag's packs and of AWS Control Tower's rules about the templates.
// Run in the folder of node_modules: node guard.js OUTPUT-FOLDER TEMPLATE…
const path = require('path');
const from = (name) => require(require.resolve(name, { paths: [process.cwd()] }));
const { App, Stack, Validations, DefaultStackSynthesizer } = from('aws-cdk-lib');
const { CfnInclude } = from('aws-cdk-lib/cloudformation-include');
const { AwsSolutionsChecks, ServerlessChecks, NIST80053R5Checks } = from('cdk-nag');
const { CfnGuardValidator } = from('@cdklabs/cdk-validator-cfnguard');
const [, , outdir, ...templates] = process.argv;

const app = new App({ outdir, context: { '@aws-cdk/core:validationReportJson': true } });
for (const templateFile of templates) {
  const stack = new Stack(app, path.parse(templateFile).name, { synthesizer: new DefaultStackSynthesizer({ generateBootstrapVersionRule: false }) });
  new CfnInclude(stack, 'included', { templateFile });
}
Validations.of(app).addPlugins(new AwsSolutionsChecks(app), new ServerlessChecks(app), new NIST80053R5Checks(app), new CfnGuardValidator());
console.error = () => {};
try {
  app.synth();
} catch (error) {} // it throws if there are findings
const { pluginReports } = JSON.parse(require('fs').readFileSync(path.join(outdir, 'policy-validation-report.json')));
const plugins = pluginReports.filter((report) => report.summary.pluginName !== 'CloudFormation Validate'); // cfn-lint checks that
if (plugins.length !== 4) throw new Error(`${plugins.length} of 4 packs of rules ran`);
for (const { violations } of plugins)
  for (const { ruleName, violatingResources, violatingConstructs } of violations)
    for (const { constructPath } of violatingResources.length ? violatingResources : violatingConstructs) console.log(ruleName, constructPath.split('/').pop());
