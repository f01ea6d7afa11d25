"""Makes what `cluster.yaml` needs in an AWS account: a security group and two roles.

    python experiments/aws_setup.py --region us-west-2 --bucket my-bucket --allow-ssh 203.0.113.7/32

Run it once; it takes seconds. The group lets in SSH from that address alone, and all traffic among
the cluster's own nodes. The head's role starts and stops instances and gives them the workers'
role. Both roles read and write the bucket and nothing else. A second run changes nothing. It is an
error if the group exists and lets in another address. Needs boto3 and your AWS credentials.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
from typing import Any

GROUP = "prune-sweep"
HEAD, WORKER = "prune-sweep-head", "prune-sweep-worker"


def ssh_source(text: str) -> str:
    """Return a network in CIDR notation; refuse one that is too large to be the user's own."""
    network = ipaddress.ip_network(text)
    if network.version != 4 or network.num_addresses > 256:
        raise ValueError(f"--allow-ssh {text}: give your own address, such as 203.0.113.7/32")
    return str(network)


def ssh_sources(group: dict[str, Any]) -> list[str]:
    """Return the networks that a group lets in on port 22."""
    rules = [rule for rule in group["IpPermissions"] if rule.get("FromPort") == 22]
    return sorted(one["CidrIp"] for rule in rules for one in rule["IpRanges"])


def security_group(ec2: Any, source: str) -> str:
    """Make the group in the default VPC, unless it exists; return its id.

    Raises:
        ValueError: there is no default VPC, or the group exists and lets in other addresses.
    """
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise ValueError("--region: it has no default VPC; make one, or use your own group")
    vpc = vpcs[0]["VpcId"]
    filters = [{"Name": "group-name", "Values": [GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
    found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if found:
        known, allowed = found[0]["GroupId"], ssh_sources(found[0])
        if allowed != [source]:
            raise ValueError(
                f"--allow-ssh {source}: the group {known} exists and lets in SSH from "
                f"{', '.join(allowed) or 'nowhere'}; change that rule, or delete the group, then "
                "run this again"
            )
        return known
    group = ec2.create_security_group(
        GroupName=GROUP, VpcId=vpc, Description="SSH from one address, all between members"
    )["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": source}]}
    inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh, inside])
    return group


def policy(bucket: str, worker_arn: str | None) -> dict[str, Any]:
    """Return what a role may do; with `worker_arn` it may also run the cluster."""
    files = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    listing = ["s3:ListBucket", "s3:GetBucketLocation"]
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": files, "Resource": f"arn:aws:s3:::{bucket}/*"},
        {"Effect": "Allow", "Action": listing, "Resource": f"arn:aws:s3:::{bucket}"},
    ]
    if worker_arn is not None:
        nodes = ["ec2:Describe*", "ec2:RunInstances", "ec2:CreateTags", "ssm:GetParameters"]
        statements += [
            {"Effect": "Allow", "Action": nodes, "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "ec2:TerminateInstances",
                "Resource": "*",
                "Condition": {"StringEquals": {"ec2:ResourceTag/project": "prune-sweep"}},
            },
            {"Effect": "Allow", "Action": "iam:PassRole", "Resource": worker_arn},
        ]
    return {"Version": "2012-10-17", "Statement": statements}


def role(iam: Any, name: str, bucket: str, worker_arn: str | None = None) -> str:
    """Make a role and its instance profile, unless they exist; return the role's ARN."""
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ec2.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    try:
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    except iam.exceptions.EntityAlreadyExistsException:
        arn = iam.get_role(RoleName=name)
    document = json.dumps(policy(bucket, worker_arn))
    iam.put_role_policy(RoleName=name, PolicyName=GROUP, PolicyDocument=document)
    try:
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    except iam.exceptions.EntityAlreadyExistsException:
        pass
    return arn["Role"]["Arn"]


def main(arguments: list[str]) -> str:
    """Make the group and the roles; return the group's id."""
    import boto3

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--bucket", required=True, help="an S3 bucket of yours, for the results")
    parser.add_argument("--allow-ssh", required=True, help="your own address, as 203.0.113.7/32")
    flags = parser.parse_args(arguments)
    source = ssh_source(flags.allow_ssh)
    iam = boto3.client("iam")
    try:
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    except (iam.exceptions.InvalidInputException, iam.exceptions.EntityAlreadyExistsException):
        pass  # The account has used spot instances before.
    worker_arn = role(iam, WORKER, flags.bucket)
    role(iam, HEAD, flags.bucket, worker_arn)
    return security_group(boto3.client("ec2", region_name=flags.region), source)


if __name__ == "__main__":
    try:
        print(f"SecurityGroupIds: [{main(sys.argv[1:])}]   # write this into cluster.yaml, twice")
    except ValueError as error:
        sys.exit(f"error: {error}")
