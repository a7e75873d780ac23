output "function_name" {
  description = "STACK of rotatorctl status, invoke, logs and doctor."
  value       = aws_cloudformation_stack.rotator.outputs["FunctionName"]
}

output "outputs" {
  description = "All outputs of the stack, by the names that infra/aws/template.yaml gives them."
  value       = aws_cloudformation_stack.rotator.outputs
}
